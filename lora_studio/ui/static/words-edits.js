// The changes over many captions, each through the dialog that shows what will become of them.
import { call, h, state } from "./core.js";
import { tagField } from "./chips.js";
import { editPictures } from "./pictures.js";
import { tagIndex } from "./tag-index.js";
import { confirmDiff } from "./words-diff.js";

/** Show what `edit` (a CaptionEdit) does to the pictures `ids` ("used": all that are trained), and do it when told so. */
export function changeCaptions(title, ids, edit, options = {}) {
  const wanted = typeof edit === "function" ? edit : () => edit;
  let shown = null;
  return confirmDiff({
    title,
    preview: async () => { shown = wanted(); return shown && call("words.preview", { project: state.project, ids, edit: shown }, { quiet: true }); },
    apply: (digest) => editPictures("words.apply", { ids, edit: shown, digest }),
    ...options,
  });
}

// ---- fields of the dialogs ------------------------------------------------------------------------------------------

/** A field for a tag that holds what was chosen. */
function tagInput(label, value, again, submit, id = "ls-edit-tag") {
  let held = value;
  const field = tagField({ placeholder: label, label, id, words: tagIndex.words, onPick: (text) => {
    const twice = text === held;
    held = text;
    setTimeout(() => { field.input.value = text; if (twice) submit(); else again(); });
  } });
  field.input.value = value;
  field.input.addEventListener("input", () => { held = field.input.value.trim(); again(); });
  setTimeout(() => { field.input.focus(); field.input.select(); });
  return { node: labelled(label, field.node), value: () => field.input.value.trim() };
}
const labelled = (text, node) => h("label.ls-field", null, h("span.ls-muted", null, text), node);
function textInput(label, value, again, properties = {}) {
  const input = h("input.ls-input", { type: "text", value, "aria-label": label, maxlength: "1000", autocomplete: "off", spellcheck: "false", oninput: again, ...properties });
  return { node: labelled(label, input), input, value: () => input.value };
}
function choice(label, values, again) {
  let held = Object.keys(values)[0];
  const group = h("div.ls-segments", { role: "radiogroup", "aria-label": label });
  const draw = () => group.replaceChildren(...Object.entries(values).map(([name, text]) => h("button.ls-segment" + (name === held ? ".current" : ""), { type: "button", role: "radio", "aria-checked": String(name === held), onclick: () => { held = name; draw(); again(); [...group.children].find((one) => one.getAttribute("aria-checked") === "true").focus(); } }, text)));
  draw();
  return { node: group, value: () => held };
}

// ---- changes of chosen tags -----------------------------------------------------------------------------------------

const listed = (tags) => (tags.length <= 3 ? tags.join(", ") : `${tags.slice(0, 2).join(", ")} and ${tags.length - 2} more`);

export function rename(tag, { ids }) {
  let field;
  return changeCaptions(`Rename ${tag}`, ids, () => (field.value() && field.value() !== tag ? { do: "rename", tags: [tag], new: field.value() } : null), {
    yes: "Rename",
    form: (again, submit) => { field = tagInput("New name", tag, again, submit); return field.node; },
  });
}

export function merge(tags, { ids, best }) {
  let field;
  return changeCaptions(`Merge ${listed(tags)}`, ids, () => (field.value() && !field.value().includes(",") ? { do: "merge", tags, new: field.value() } : null), {
    yes: "Merge",
    form: (again, submit) => { field = tagInput("Into one tag", best, again, submit); return field.node; },
  });
}

export const remove = (tags, { ids }) => changeCaptions(`Delete ${listed(tags)}`, ids, { do: "remove", tags }, { yes: "Delete" });
export const front = (tags, { ids }) => changeCaptions(`Move ${listed(tags)} to the front`, ids, { do: "front", tags }, { yes: "Move", note: "Behind the trigger, in the captions that have them." });

/** Only in the captions that have the tag: `ids` are those. */
export function place(tag, { ids }) {
  let field;
  return changeCaptions(`Move ${tag}`, ids, () => (Number(field.value()) ? { do: "place", tags: [tag], at: Number(field.value()) } : null), {
    yes: "Move",
    form: (again) => { field = textInput("To this place (1 is the first behind the trigger, −1 the last)", "1", again, { type: "number", min: "-1000", max: "1000", step: "1", id: "ls-edit-place" }); setTimeout(() => field.input.select()); return field.node; },
  });
}

// ---- changes of whole captions --------------------------------------------------------------------------------------

export function add({ ids }) {
  let field, where, at;
  const edit = () => {
    const tags = field.value().split(",").map((tag) => tag.trim()).filter(Boolean);
    if (!tags.length) return null;
    return where.value() === "end" ? { do: "add", tags } : { do: "place", tags, at: where.value() === "front" ? 1 : Number(at.value()) || 1 };
  };
  return changeCaptions("Add a tag", ids, edit, {
    yes: "Add",
    form: (again, submit) => {
      field = tagInput("Tag", "", again, submit);
      at = textInput("Place, counted behind the trigger; −1 is the last", "2", again, { type: "number", min: "-1000", max: "1000", step: "1", id: "ls-edit-place" });
      at.node.hidden = true;
      where = choice("Where", { end: "At the end", front: "First behind the trigger", place: "At a place" }, () => { at.node.hidden = where.value() !== "place"; again(); });
      return h("div.ls-stack", null, where.node, at.node, field.node); // last: what is offered to complete it covers what follows
    },
  });
}

/** `fields`: "caption" (tags), "prose" (sentences), or both to choose from. */
export function replace({ ids, fields }) {
  let pattern, by, how, field;
  const edit = () => (pattern.value() ? { do: how.value(), pattern: pattern.value(), by: by.value(), field: field ? field.value() : fields[0] } : null);
  return changeCaptions("Find and replace", ids, edit, {
    yes: "Replace",
    form: (again) => {
      pattern = textInput("Find", "", again, { id: "ls-edit-pattern" });
      by = textInput("Replace by", "", again, { id: "ls-edit-by", placeholder: "nothing" });
      how = choice("How", { text: "Text", regex: "Regular expression" }, () => { hint.hidden = how.value() !== "regex"; again(); });
      field = fields.length > 1 ? choice("Where", { caption: "In tags", prose: "In sentences" }, again) : null;
      const hint = h("div.ls-muted", { hidden: true }, "It is looked for in each tag, or in the sentences. \\1 is what stood in its first brackets; (red|blue) hat → hat finds both.");
      setTimeout(() => pattern.input.focus());
      return h("div.ls-stack", null, h("div.ls-edit-pair", null, pattern.node, by.node), h("div.ls-row", null, how.node, field && field.node), hint);
    },
  });
}

/** Changes that need no answer: name -> [title, what it does, word on the button]. */
export const TIDY = {
  trigger: ["Trigger first", "Where it is missing too.", "Put it first"],
  sort: ["Sort by alphabet", "The trigger stays in front.", "Sort"],
  dedupe: ["Remove repeats", "Each tag once; blanks and commas tidied.", "Tidy"],
  underscores: ["Blanks for underscores", "long_hair becomes long hair; faces such as ^_^ stay.", "Change"],
  aliases: ["Usual names", "Each tag by the name that most captions use for it.", "Change"],
  implications: ["Add what is implied", "red hat implies hat.", "Add"],
  redundant: ["Remove what is implied", "hat goes where red hat stands.", "Remove"],
  mojibake: ["Repair letters", "cafÃ© becomes café.", "Repair"],
};
/** Of these, what can be done with sentences. */
export const ON_PROSE = ["trigger", "mojibake"];
export const tidy = (name, { ids, fields }) => changeCaptions(TIDY[name][0], ids, { do: name, ...(fields[0] === "prose" ? { field: "prose" } : {}) }, { yes: TIDY[name][2], note: TIDY[name][1] });
