// Which tagger looks at which pictures: the models with size, speed and licence, and the few settings that matter.
import { Failure, button, bytes, call, dialog, fill, h, icon, number, plural, state } from "./core.js";
import { pictures, used } from "./pictures.js";

const GROUPS = { starter: "Ships with the studio", wd: "Booru tags", onnx: "Booru tags", open_clip: "Any words", zero_shot: "Any words", captioner: "Sentences" };
const WHICH = { used: "All", untagged: "Without a caption", shown: "Shown", selected: "Selected" };
const KNOWS_WORDS = "zero_shot"; // kinds of model that look for any word they are given
const WORDS = { // title, what an empty field means, and which kinds of model the setting is for
  threshold: ["How sure, from 0 to 1", "each tag's own best level", null],
  character_threshold: ["Character names, from 0 to 1", "the model's own level", ["wd", "onnx"]],
  max_tags: ["At most, tags a picture", "", null],
  exclude: ["Never write these tags", "tag, another tag", null],
  prompt: ["What the model is asked", "", ["captioner"]],
  rating: ["Write the rating too", "", ["wd", "onnx"]],
  underscores: ["Keep the underscores of tags", "", ["wd", "onnx"]],
};
const key = () => `lora-studio-${state.project}-tagger`;

/** The settings that were used last in this project; null before the first time. */
export function lastConfig() {
  try { return JSON.parse(localStorage.getItem(key()) || "null"); } catch { return null; }
}
export const lastWords = () => localStorage.getItem(`${key()}-words`) || "";

/** `scope`: {shown, selected}; `start(config, ids)` sets to work and may refuse; `modes`: name -> [title, text]; `keep(mode)` remembers. */
export async function chooseTagger({ scope, mode, start, modes, keep }) {
  const found = await call("tagger.cards", { project: state.project });
  const known = new Map(found.settings.map((setting) => [setting.name, setting]));
  const last = lastConfig();
  const config = { ...found.config, ...Object.fromEntries(Object.entries(last || {}).filter(([name]) => known.has(name))) };
  const cards = new Map(found.cards.map((card) => [card.name, card]));
  const chosen = new Set(config.models.filter((name) => cards.has(name)));
  for (const name of config.models.filter((one) => !cards.has(one))) await own(name).catch(() => {});
  if (!chosen.size) chosen.add(found.config.models[0]);
  const all = pictures.all.filter(used);
  const sets = { used: all.map((one) => one.id), untagged: all.filter((one) => !one.caption && !one.prose).map((one) => one.id), shown: scope.shown, selected: scope.selected.length > 1 ? scope.selected : [] };
  let which = sets.selected.length ? "selected" : sets.shown.length < all.length && sets.shown.length ? "shown" : sets.untagged.length && sets.untagged.length < all.length ? "untagged" : "used";

  async function own(name) {
    const card = await call("tagger.card", { project: state.project, name }, { quiet: true });
    cards.set(card.name, card);
    chosen.add(card.name);
  }

  return dialog("Auto-tag", (close) => {
    const list = h("div.ls-models", { role: "group", "aria-label": "Taggers" });
    const combine = h("div"), asked = h("div.ls-tagger-settings"), settings = h("div.ls-tagger-settings"), summary = h("span.ls-faint"), pick = h("div.ls-segments", { role: "group", "aria-label": "Which pictures" });
    const problem = h("div.ls-field-problem", { role: "alert" }), foot = h("div.ls-row.end");
    const kinds = () => new Set([...chosen].map((name) => cards.get(name).kind));
    const fields = new Map();
    const vocabulary = h("textarea.ls-input.ls-lines", { id: "ls-tagger-words", rows: "3", placeholder: "one a line; empty: the studio's own words", value: found.words });
    const wordsField = h("div.ls-field.whole", null, h("label.ls-muted", { for: "ls-tagger-words" }, "Words to look for"), vocabulary);

    // ---- models ---------------------------------------------------------------------------------------------------------

    function modelRow(card) {
      const box = h("input", { type: "checkbox", checked: chosen.has(card.name), "data-model": card.name, onchange: () => { if (box.checked) chosen.add(card.name); else chosen.delete(card.name); drawRest(); } });
      return h("label.ls-model", null, box,
        h("span.ls-model-text", null, h("b", null, card.title), card.about && h("span.ls-muted", null, card.about)),
        h("span.ls-model-facts", null, h("span", null, card.speed || "–"), h("span", null, card.licence || "licence unknown")),
        h("span.ls-model-there" + (card.present ? ".present" : ""), { title: card.source }, card.present ? [icon("check", 13), "on this disk"] : [icon("save", 13), card.bytes ? `fetches ${bytes(card.bytes)} once` : "fetched once"]));
    }
    function drawModels() {
      const groups = new Map();
      for (const card of cards.values()) { const title = card.own ? "Your own" : GROUPS[card.kind] || "Others"; groups.set(title, [...(groups.get(title) || []), card]); }
      fill(list, [...groups].map(([title, rows]) => h("section", null, h("h3", null, title), rows.map(modelRow))));
    }
    const name = h("input.ls-input", { type: "text", id: "ls-tagger-own", placeholder: found.owner ? "A folder of this machine, or a name on the hub: owner/model" : "A name on the hub: owner/model", "aria-label": "Another model", autocomplete: "off", spellcheck: "false", onkeydown: (event) => { if (event.key === "Enter") { event.preventDefault(); add.click(); } } });
    const ownProblem = h("div.ls-field-problem", { role: "alert" });
    const add = button("Add", async () => {
      ownProblem.textContent = "";
      if (!name.value.trim()) return name.focus();
      try { await own(name.value.trim()); name.value = ""; drawModels(); drawRest(); } catch (error) {
        if (!(error instanceof Failure)) throw error;
        ownProblem.textContent = [error.message, error.remedy].filter(Boolean).join(" ");
        name.focus();
      }
    }, { id: "ls-tagger-add" });

    // ---- settings -------------------------------------------------------------------------------------------------------

    /** An input for one setting that the chosen models have. Empty: the default. */
    function field(setting, title, hint) {
      if (setting.type === "bool") {
        const box = h("input", { type: "checkbox", id: `ls-tagger-${setting.name}`, checked: config[setting.name] });
        return { node: h("label.ls-tagger-switch", { title: setting.doc }, box, title), read: () => box.checked, tell: () => box.focus() };
      }
      const value = config[setting.name], several = setting.type === "list", numeric = ["int", "float"].includes(setting.type);
      const attributes = { id: `ls-tagger-${setting.name}`, title: setting.doc, placeholder: hint || null, autocomplete: "off" };
      const long = setting.name === "prompt" || setting.name === "vocabulary";
      const input = long ? h("textarea.ls-input.ls-lines", { ...attributes, rows: "2" })
        : numeric ? h("input.ls-input", { ...attributes, type: "number", min: setting.minimum, max: setting.maximum, step: setting.type === "int" ? "1" : "0.01" })
          : h("input.ls-input", { ...attributes, type: "text" });
      const bare = hint && (value === setting.default || value === null);
      input.value = bare && !several ? "" : several ? (value || []).join(", ") : value ?? "";
      const read = () => {
        const text = input.value.trim();
        if (several) return text.split(/[,\n]/).map((one) => one.trim()).filter(Boolean);
        if (text === "") return setting.default;
        return numeric ? Number(text) : text;
      };
      const wrong = h("div.ls-field-problem", { role: "alert" });
      const node = h("div.ls-field" + (long || several ? ".whole" : ""), null, h("label.ls-muted", { for: attributes.id }, title), input, wrong);
      input.addEventListener("input", () => { wrong.textContent = ""; node.classList.remove("bad"); });
      return { node, read, tell: (text) => { wrong.textContent = text; node.classList.add("bad"); input.focus(); } };
    }
    function categoryChips() {
      const names = [...new Set([...kinds()].flatMap((kind) => found.categories[kind] || []))];
      if (!names.length || !known.has("skip_categories")) return null;
      const left = new Set(config.skip_categories);
      return h("div.ls-field.whole", null, h("span.ls-muted", { id: "ls-tagger-kinds" }, "Kinds of tags to leave out"), h("div.ls-kinds", { role: "group", "aria-labelledby": "ls-tagger-kinds" }, names.map((one) => {
        const chip = h("button.ls-chip-button" + (left.has(one) ? ".current" : ""), { type: "button", "aria-pressed": String(left.has(one)), "data-kind": one, onclick: () => {
          if (left.has(one)) left.delete(one); else left.add(one);
          config.skip_categories = [...left];
          drawSummary();
          chip.classList.toggle("current", left.has(one)); chip.setAttribute("aria-pressed", String(left.has(one)));
        } }, one);
        return chip;
      })));
    }
    const more = h("details.ls-more", { id: "ls-tagger-more", open: localStorage.getItem("lora-studio-tagger-more") === "yes", ontoggle: () => localStorage.setItem("lora-studio-tagger-more", more.open ? "yes" : "no") }, h("summary", null, "How sure, how many, what to leave out ", summary), settings);
    /** What differs from the default, so that a closed box hides nothing. */
    function drawSummary() {
      const differing = [...fields].filter(([one]) => one !== "prompt" && JSON.stringify(config[one]) !== JSON.stringify(known.get(one).default)).map(([one]) => [WORDS[one][0].split(",")[0].toLowerCase(), known.get(one).type !== "bool" && [config[one]].flat().join(", ")].filter(Boolean).join(" "));
      if (config.skip_categories.length) differing.push(`without ${config.skip_categories.join(", ")}`);
      summary.textContent = differing.length ? `· ${differing.join(" · ")}` : "";
    }
    function keepTyped() { for (const [one, { read }] of fields) config[one] = read(); }
    function drawSettings() {
      keepTyped();
      fields.clear();
      const now = kinds(), scores = [...now].some((kind) => kind !== "captioner");
      const wanted = Object.entries(WORDS).filter(([one, [, , only]]) => known.has(one) && (only ? only.some((kind) => now.has(kind)) : scores));
      for (const [one, [title, hint]] of wanted) fields.set(one, field(known.get(one), title, hint));
      const own = (one) => one === "prompt";
      fill(asked, now.has(KNOWS_WORDS) && wordsField, [...fields].filter(([one]) => own(one)).map(([, one]) => one.node));
      fill(settings, [...fields].filter(([one]) => !own(one)).map(([, one]) => one.node), scores && categoryChips());
      more.hidden = !scores;
      drawSummary();
      const several = [...chosen].filter((one) => cards.get(one).answers === "tags").length > 1;
      fill(combine, several && known.has("combine") && h("div.ls-inline.ls-combine", null, h("span.ls-muted", null, "Tags written: "), h("div.ls-segments", { role: "group", "aria-label": "How several taggers agree" }, [["union", "seen by any of them"], ["intersection", "seen by all of them"]].map(([value, text]) =>
        h("button.ls-segment" + (config.combine === value ? ".current" : ""), { type: "button", "aria-pressed": String(config.combine === value), "data-combine": value, onclick: () => { config.combine = value; drawSettings(); } }, text)))));
    }

    // ---- which pictures, how, and go --------------------------------------------------------------------------------------

    const how = h("select.ls-input", { id: "ls-tagger-how", "aria-label": "How to write it", onchange: () => keep(how.value) }, Object.entries(modes).map(([value, [title]]) => h("option", { value }, title)));
    how.value = mode;
    const filled = () => sets[which].some((id) => { const one = pictures.byId.get(id); return one && (one.caption || one.prose); });
    const howBox = h("div.ls-field", null, h("label.ls-muted", { for: "ls-tagger-how" }, "Where there is a caption already"), how);
    function drawRest() {
      drawSettings();
      fill(pick, Object.entries(WHICH).map(([value, title]) => h("button.ls-segment" + (which === value ? ".current" : ""), { type: "button", "aria-pressed": String(which === value), "data-which": value, disabled: !sets[value].length, onclick: () => { which = value; drawRest(); } }, title, h("span.count", null, number(sets[value].length)))));
      howBox.style.visibility = filled() ? "" : "hidden";
      const to = [...chosen].filter((one) => !cards.get(one).present);
      const size = to.reduce((sum, one) => sum + (cards.get(one).bytes || 0), 0);
      fill(foot, h("span.ls-muted.ls-fill", null, to.length ? `${size ? bytes(size) : plural(to.length, "model")}${size && !to.every((one) => cards.get(one).bytes) ? " and more" : ""} will be fetched first.` : "", !to.length && filled() ? "You see every change before it is written." : ""),
        button("Cancel", () => close()), button(sets[which].length ? `Tag ${plural(sets[which].length, "picture")}` : "Tag", begin, { kind: "primary", id: "ls-tagger-go", disabled: !sets[which].length || !chosen.size }));
    }
    async function begin() {
      keepTyped();
      problem.textContent = "";
      const wanted = { ...config, models: [...chosen] };
      for (const one of Object.keys(wanted)) if (!known.has(one) || one === "vocabulary") delete wanted[one];
      try {
        await start(wanted, which === "used" ? null : sets[which], vocabulary.value, { quiet: true });
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        const [, one, text] = /^(\w+): ([^\n]*)/.exec(error.message) || [];
        if (fields.has(one)) fields.get(one).tell(text); else problem.textContent = [error.message, error.remedy].filter(Boolean).join(" ");
        return;
      }
      localStorage.setItem(key(), JSON.stringify(wanted));
      localStorage.setItem(`${key()}-words`, vocabulary.value);
      close(true);
    }

    drawModels();
    drawRest();
    return h("div.ls-choose-tagger", null, h("div.ls-stack.ls-choose-body", null, list, h("div.ls-inline", null, name, add), ownProblem, combine, asked,
      h("div.ls-tagger-where", null, h("div.ls-field", null, h("span.ls-muted", null, "Which pictures"), pick), howBox), more, problem), foot);
  }, { wide: true });
}
