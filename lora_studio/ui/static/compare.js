// Two pictures side by side, zoomed and moved together, with what was measured of each.
import { Failure, bytes, call, fill, full, h, icon, state } from "./core.js";
import { editPictures, pictures } from "./pictures.js";
import { DECISIONS, flags, short } from "./words.js";
import { sharedView } from "./zoom.js";

/** What is told of both: name, its text for a picture, and a number of which more is better (null: neither). */
const ROWS = [
  ["Size", (one) => `${one.width} × ${one.height}`, (one) => one.width * one.height],
  ["File", (one) => bytes(one.size), () => null],
  ["Found", (one) => [...new Set(flags(one).map((flag) => short(flag.name)))].join(", ") || "nothing wrong", (one) => -flags(one).filter((flag) => flag.bad).length],
  ["Decision", (one) => DECISIONS[one.decision].toLowerCase(), () => null],
];

/** Open the comparison; resolves when it is closed. */
export function compare(first, second) {
  const pair = [first, second];
  const view = sharedView();
  const stages = [view.stage(), view.stage()];
  const table = h("table.ls-measures"), heads = [h("div.ls-compare-head"), h("div.ls-compare-head")];
  let measured = [];
  return new Promise((resolve) => {
    const node = h("dialog.ls-viewer.ls-compare", { tabindex: "-1", "aria-label": "Compare two pictures" });
    const close = () => { window.removeEventListener("ls:pictures", draw); node.close(); node.remove(); resolve(); };

    function draw() {
      pair.forEach((one, place) => {
        stages[place].show(full(one), one.name);
        fill(heads[place], h("b", null, `#${one.id}`), h("span.ls-ellipsis", { title: one.name }, one.name.split("/").pop()),
          h("button.ls-button.small", { type: "button", id: `ls-keep-${place + 1}`, onclick: () => prefer(place) }, "Keep this, reject the other ", h("kbd", null, String(place + 1))));
      });
      const rows = [...ROWS.map(([name, text, better]) => ({ name, texts: pair.map(text), values: pair.map(better) })), ...measured];
      fill(table, h("tbody", null, rows.map(({ name, texts, values }) => h("tr", null, [0, 1].map((place) => [
        place === 1 && h("th", { scope: "row" }, name),
        h("td" + (values[place] !== null && values[place] > values[1 - place] ? ".better" : ""), null, texts[place]),
      ])))));
      if (node.open && !node.contains(document.activeElement)) node.focus(); // the button that had it was drawn anew
    }
    async function prefer(place) {
      const [best, other] = [pair[place], pair[1 - place]];
      const saved = editPictures("curation.choose", { best: best.id, others: [other.id] });
      close();
      await saved.catch((error) => { if (!(error instanceof Failure)) throw error; });
    }
    async function measure() {
      const found = await call("curation.measures", { project: state.project, ids: pair.map((one) => one.id) }, { quiet: true });
      measured = pair[0].id === found.ids[0] ? found.rows : found.rows.map((row) => ({ ...row, texts: [...row.texts].reverse(), values: [...row.values].reverse() }));
      draw();
    }

    node.addEventListener("cancel", (event) => { event.preventDefault(); close(); });
    node.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (view.onKey(event)) return;
      const run = { 1: () => prefer(0), 2: () => prefer(1), x: close, s: () => { pair.reverse(); measured = measured.map((row) => ({ ...row, texts: [...row.texts].reverse(), values: [...row.values].reverse() })); draw(); } }[event.key.toLowerCase()];
      if (run) { event.preventDefault(); run(); }
    });
    node.append(h("div.ls-compare-panes", null, [0, 1].map((place) => h("div.ls-compare-pane", null, heads[place], stages[place].node))),
      h("div.ls-compare-foot", null, table, h("div.ls-viewer-line", null,
        [["1", "keep the left"], ["2", "keep the right"], ["S", "swap"], ["+ − 0", "zoom"], ["Esc", "close"]].map(([key, text]) => h("span", null, h("kbd", null, key), " ", text)))),
      h("button.ls-close", { type: "button", "aria-label": "Close", onclick: close }, icon("close")));
    window.addEventListener("ls:pictures", draw);
    document.body.append(node);
    draw();
    node.showModal();
    node.focus();
    if (pictures.byId.size) measure().catch((error) => { if (!(error instanceof Failure)) throw error; });
  });
}
