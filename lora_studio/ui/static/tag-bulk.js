// One change of many captions: chosen in a form, seen as a diff, done in one step.
import { call, fill, h, number, state } from "./core.js";
import { split, tagField } from "./chips.js";
import { editPictures } from "./pictures.js";
import { confirmDiff } from "./words-diff.js";

const TAGS = { add: "Add tags", remove: "Remove tags", rename: "Replace a tag", front: "Move tags to the front", place: "Put tags at a place" };
const TEXT = { text: "Replace letters", regex: "Replace by a pattern" };
const WHOLE = {
  trigger: "Trigger first", dedupe: "Remove repeats", sort: "Sort by alphabet", underscores: "Spaces for underscores", aliases: "Usual names for tags",
  implications: "Add what tags imply", redundant: "Remove what other tags imply", mojibake: "Repair broken letters", clear: "Empty the captions",
};
const ON_PROSE = ["text", "regex", "trigger", "mojibake", "clear"];

/**
 * Ask what to change, show what it does, do it. `scopes`: [{title, ids (null: all), count}], the first is proposed; `tag` is
 * filled in; `mode` is what the project's captions are. Resolves with the answer, null when cancelled.
 */
export function bulkEdit(action, { scopes, words, tag = "", mode = "tags" }) {
  let scope = scopes[0], again = () => {};
  const option = ([value, text]) => h("option", { value }, text);
  const fields = mode === "prose" ? ["prose"] : mode === "both" ? ["caption", "prose"] : ["caption"];
  const prose = fields[0] === "prose";
  const groups = prose ? [Object.entries({ ...TEXT, ...WHOLE }).filter(([name]) => ON_PROSE.includes(name)).map(option)]
    : [h("optgroup", { label: "Tags" }, Object.entries(TAGS).map(option)), h("optgroup", { label: "Text" }, Object.entries(TEXT).map(option)), h("optgroup", { label: "Whole captions" }, Object.entries(WHOLE).map(option))];
  const what = h("select.ls-input", { id: "ls-bulk-do", "aria-label": "What to do", onchange: () => { drawFields(); again(); } }, groups);
  const text = (id, label, rest = {}) => h("input.ls-input", { type: "text", id, "aria-label": label, placeholder: label, autocomplete: "off", spellcheck: "false", oninput: () => again(), ...rest });
  const first = tagField({ label: "Tags", placeholder: "Tags, with commas", id: "ls-bulk-tag", words, several: true, onPick: (found) => { queueMicrotask(() => again()); return found; } });
  const second = tagField({ label: "New tag", placeholder: "Put this in its place", id: "ls-bulk-new", words, several: true, onPick: (found) => { queueMicrotask(() => again()); return found; } });
  for (const field of [first, second]) field.input.addEventListener("input", () => again());
  const pattern = text("ls-bulk-pattern", "Look for"), by = text("ls-bulk-by", "Put in its place"), at = h("input.ls-input.ls-bulk-at", { type: "number", id: "ls-bulk-at", value: "1", min: "-100", max: "1000", "aria-label": "Place; 1 is the first behind the trigger, -1 the last", title: "1 is the first behind the trigger, −1 the last", oninput: () => again() });
  const field = h("select.ls-input", { id: "ls-bulk-field", "aria-label": "Which text", onchange: () => again() }, fields.map((name) => option([name, name === "prose" ? "in sentences" : "in tags"])));
  const box = h("div.ls-bulk-fields");
  const segments = h("div.ls-segments", { role: "group", "aria-label": "Which pictures" });
  const needs = () => (what.value in TAGS ? [first.node, what.value === "rename" && second.node, what.value === "place" && at] : what.value in TEXT ? [pattern, by] : []);

  function drawFields() {
    fill(box, needs(), fields.length > 1 && ON_PROSE.includes(what.value) && field);
    const input = box.querySelector("input");
    if (input) input.focus();
  }
  function drawScopes() {
    fill(segments, scopes.map((one) => h("button.ls-segment" + (one === scope ? ".current" : ""), { type: "button", "aria-pressed": String(one === scope), onclick: () => { scope = one; drawScopes(); again(); } }, one.title, h("span.count", null, number(one.count)))));
  }
  /** The change as the form has it; null while something is missing. */
  function edit() {
    const kind = what.value, tags = split(first.input.value);
    if (kind in TAGS) {
      if (!tags.length || (kind === "rename" && !second.input.value.trim()) || (kind === "place" && !Number(at.value))) return null;
      return { do: kind, tags, ...(kind === "rename" ? { new: second.input.value.trim() } : {}), ...(kind === "place" ? { at: Number(at.value) } : {}) };
    }
    const where = ON_PROSE.includes(kind) ? { field: field.value } : {};
    if (kind in TEXT) return pattern.value ? { do: kind, pattern: pattern.value, by: by.value, ...where } : null;
    return { do: kind, ...where };
  }
  let previewed = null;
  return confirmDiff({
    title: "Change captions",
    preview: async () => { previewed = edit(); return previewed && call("words.preview", { project: state.project, ids: scope.ids, edit: previewed }, { quiet: true }); },
    apply: (digest) => editPictures("words.apply", { ids: scope.ids, edit: previewed, digest }),
    form(redo) {
      what.value = prose && !ON_PROSE.includes(action) ? "text" : action;
      first.input.value = tag;
      drawScopes();
      setTimeout(() => { drawFields(); again = redo; const full = box.querySelector("#ls-bulk-tag"); if (full && tag && action === "rename") second.input.focus(); });
      return h("div.ls-bulk", null, h("div.ls-row", null, what, segments), box);
    },
  });
}
