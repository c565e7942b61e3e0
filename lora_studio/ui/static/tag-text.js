// A text area of a picture's text: saved on a pause, on leaving it and on going on; never overwritten while one types.
import { h } from "./core.js";
import { pictures } from "./pictures.js";
import { saveText } from "./tag-save.js";

const PAUSE = 900; // milliseconds without a key

/** {node, show(image), flush(), focus()}. field: "caption" or "prose"; onKey(event) -> true when it was for it */
export function textArea({ field, id, label, placeholder, onKey }) {
  let shown = 0, seen = "", dirty = false, saving = 0, timer = 0; // seen: the text that what is typed here replaces
  const node = h("textarea.ls-input.ls-text", { id, "aria-label": label, placeholder, rows: "3", maxlength: "20000", spellcheck: field === "prose" ? "true" : "false", oninput: typed, onblur: leave });
  node.addEventListener("keydown", (event) => {
    if (onKey(event)) { event.preventDefault(); event.stopPropagation(); }
    else if (event.key === "Escape") { node.blur(); event.stopPropagation(); }
  });
  window.addEventListener("pagehide", () => flush());

  function typed() { dirty = true; clearTimeout(timer); timer = setTimeout(flush, PAUSE); }
  function leave() { flush(); const image = pictures.byId.get(shown); if (image && !dirty && !saving) node.value = seen; } // tidied
  /** Save what was typed. */
  async function flush() {
    clearTimeout(timer);
    const image = pictures.byId.get(shown), id = shown;
    if (!dirty || !image) return;
    dirty = false;
    saving += 1;
    const now = await saveText(image, field, node.value, seen);
    saving -= 1;
    if (id !== shown) return;
    if (now === null) dirty = pictures.byId.get(id) !== undefined && pictures.byId.get(id)[field] === seen; // did not get through: once more on leaving
    else { seen = now; if (document.activeElement !== node && !dirty && !saving) node.value = seen; }
  }
  return {
    node,
    flush,
    focus() { node.focus(); node.setSelectionRange(node.value.length, node.value.length); },
    show(image) {
      if (image.id !== shown) { flush(); shown = image.id; seen = node.value = image[field]; dirty = false; return; }
      if (dirty || saving || image[field] === seen) return;
      const caret = Math.min(node.selectionStart, image[field].length); // somebody else wrote, or the chips did
      seen = node.value = image[field];
      if (document.activeElement === node) node.setSelectionRange(caret, caret);
    },
  };
}
