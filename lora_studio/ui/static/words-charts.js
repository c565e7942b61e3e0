// "Charts": how often each tag stands, how the kinds of words are balanced, which tags stand together.
import { button, fill, h, icon, number, plural } from "./core.js";
import { keepFocus } from "./focus.js";
import { pictures } from "./pictures.js";
import { answer, having, percent, shareBar, together } from "./words-ask.js";
import { heatMap } from "./words-heat.js";

const FIRST = 20, STEP = 60, PAIRS = 12;
const ORDERS = { frequency: "By frequency", alike: "Alike together" };

export function chartsView({ show, scope }) {
  const found = answer("words.charts", draw);
  let drawn = null, most = FIRST, pairsShown = PAIRS, order = "frequency", looked = [0, 0];
  const frequency = h("section.ls-set-card.ls-frequency", { "aria-label": "Tag frequency" }), balance = h("section.ls-set-card.ls-balance", { "aria-label": "Categories" });
  const told = h("div.ls-heat-told", { id: "ls-heat-told", "aria-live": "polite" }), stage = h("div.ls-heat-stage"), list = h("div.ls-heat-list"), orders = h("div.ls-segments", { role: "group", "aria-label": "Order of the tags" });
  const heat = heatMap({
    onCurrent: (i, j) => { looked = [i, j]; told.textContent = heat.words(i, j); },
    onOpen: (i, j) => open(i, j),
  });
  stage.append(heat.node);
  const map = h("section.ls-set-card.ls-together", { "aria-label": "Tags that stand together" },
    h("div.ls-card-head", null, h("h2", null, "Which tags stand together"), h("span.ls-muted", null, "The fuller a square, the less often one of the two tags stands without the other."), h("span.ls-fill"), h("span.ls-heat-scale", { "aria-hidden": "true" }, "never", h("i"), "always"), orders),
    h("div.ls-heat-line", null, told, button("Show pictures", () => open(...looked), { icon: "image", kind: "quiet", id: "ls-heat-show" })),
    h("div.ls-heat-body", null, stage, list));
  const charts = h("div.ls-charts", null, h("div.ls-charts-top", null, frequency, balance), map), empty = h("div");
  const node = h("div.ls-words-scroll", { id: "ls-charts" }, empty, charts);

  function open(i, j) {
    const names = found.found.together.names, ids = together([names[i], names[j]]);
    if (ids.length) show(ids, i === j ? names[i] : `${names[i]} + ${names[j]}`);
  }

  function drawFrequency() {
    const { tags, pictures: all } = found.found, largest = tags.length ? tags[0][1] : 1, single = tags.filter(([, count]) => count === 1).length;
    keepFocus(frequency, () => fill(frequency,
      h("div.ls-card-head", null, h("h2", null, "How often each tag stands"), h("span.ls-muted", null, `${plural(tags.length, "tag")} in ${plural(all, "picture")}${single ? `; ${number(single)} on one picture only` : ""}. A click shows the pictures.`)),
      h("ol.ls-bars", null, tags.slice(0, most).map(([name, count]) => h("li", null, h("button.ls-bar-row", { type: "button", "data-tag": name, title: `Show the ${plural(count, "picture")} with ${name}`, onclick: () => show(having([name]), name) },
        h("span.ls-ellipsis", null, name), h("span.ls-bar-track", { "aria-hidden": "true" }, h("i", { style: `width:${(100 * count) / largest}%` })), h("b", null, number(count)), h("span.ls-faint", null, percent(count / Math.max(1, all))))))),
      tags.length > most && button(tags.length - most > STEP ? `Show ${number(STEP)} more of ${number(tags.length - most)}` : `Show the other ${number(tags.length - most)}`, () => { most += STEP; drawFrequency(); }, { kind: "quiet" })));
  }

  function drawBalance() {
    const { categories } = found.found;
    fill(balance, h("div.ls-card-head", null, h("h2", null, "What the captions speak of"), h("span.ls-muted", null, "In how many pictures each kind of word stands.")),
      h("table.ls-balance-table", null, h("thead", null, h("tr", null, ["Category", "Pictures", "Tags"].map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", null, categories.map((one) => h("tr", { "data-category": one.category }, h("th", { scope: "row" }, one.category), h("td", null, shareBar(one.share)), h("td.number", { title: one.examples.join(", ") }, number(one.tags)))))));
  }

  function drawTogether() {
    const { names, counts } = found.found.together;
    map.hidden = names.length < 2;
    if (map.hidden) return;
    keepFocus(orders, () => fill(orders, Object.entries(ORDERS).map(([name, text]) => h("button.ls-segment" + (name === order ? ".current" : ""), { type: "button", id: `ls-heat-${name}`, "aria-pressed": String(name === order), onclick: () => { order = name; drawTogether(); } }, text))));
    heat.set(names, counts, order);
    const pairs = heat.pairs();
    keepFocus(list, () => fill(list, h("h3", null, "Most often together"),
      h("table.ls-balance-table", null, h("thead", null, h("tr", null, ["Tags", "Together", "Of those with either"].map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", null, pairs.slice(0, pairsShown).map(([i, j, both, share]) => h("tr", null, h("th", { scope: "row" }, h("button.ls-link", { type: "button", onclick: () => open(i, j) }, `${names[i]} + ${names[j]}`)), h("td.number", null, number(both)), h("td", null, shareBar(share)))))),
      pairs.length > pairsShown && button("Show more", () => { pairsShown += STEP; drawTogether(); }, { kind: "quiet", label: "Show more pairs of tags" })));
  }

  function draw() {
    found.ask(scope().mode);
    const ready = found.found && !found.problem && found.found.tags.length > 0;
    charts.hidden = !ready;
    empty.hidden = Boolean(ready);
    if (!ready) {
      fill(empty, h("div.ls-empty", null, found.problem ? icon("warn", 28) : found.found ? icon("image", 30) : h("span.ls-spinner"), h("h3", null, found.problem || (found.found ? "No tags yet" : "Counting the tags")),
        found.found && h("p", null, scope().mode === "prose" ? "The charts count tags, and these captions are sentences." : pictures.all.length ? "The charts appear when the pictures have captions." : "There are no pictures yet.")));
      drawn = null;
      return;
    }
    if (drawn === found.found) { heat.draw(); return; }
    drawn = found.found;
    drawFrequency();
    drawBalance();
    drawTogether();
  }
  return { node, draw };
}
