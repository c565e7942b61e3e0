// The tags of one picture as chips: add with completion, remove, move; every change is saved at once.
import { fill, h, icon } from "./core.js";

export const split = (caption) => {
  const seen = new Set();
  return caption.replaceAll("\n", ",").split(",").map((tag) => tag.trim()).filter((tag) => tag && !seen.has(tag.toLowerCase()) && seen.add(tag.toLowerCase()));
};

/** A text field that offers words. options: placeholder, label, id, words() -> [{name, count}], onPick(text), onEmptyBackspace() */
export function tagField({ placeholder, label, id, words, onPick, onEmptyBackspace }) {
  const listId = `ls-words-${Math.random().toString(36).slice(2, 8)}`;
  const input = h("input.ls-input", { type: "text", placeholder, "aria-label": label, id, autocomplete: "off", role: "combobox", "aria-expanded": "false", "aria-controls": listId, maxlength: "200" });
  const list = h("div.ls-words", { id: listId, role: "listbox", hidden: true });
  let offered = [], at = -1;
  const close = () => { list.hidden = true; input.setAttribute("aria-expanded", "false"); at = -1; };
  function pick(text) { const clean = text.trim(); if (clean) { onPick(clean); input.value = ""; } close(); input.focus(); }
  function offer() {
    const asked = input.value.trim().toLowerCase();
    if (!asked) { close(); return; }
    const all = words();
    offered = [...all.filter((word) => word.name.toLowerCase().startsWith(asked)), ...all.filter((word) => !word.name.toLowerCase().startsWith(asked) && word.name.toLowerCase().includes(asked))].slice(0, 8);
    at = -1;
    list.hidden = !offered.length;
    input.setAttribute("aria-expanded", String(!list.hidden));
    draw();
  }
  function draw() {
    fill(list, offered.map((word, index) => h("div.ls-word" + (index === at ? ".current" : ""), { role: "option", "aria-selected": String(index === at), onpointerdown: (event) => { event.preventDefault(); pick(word.name); } }, h("span", null, word.name), word.count ? h("span.ls-faint", null, String(word.count)) : null)));
  }
  input.addEventListener("input", () => { if (input.value.includes(",")) { input.value.split(",").slice(0, -1).forEach((text) => text.trim() && onPick(text.trim())); input.value = input.value.split(",").pop(); } offer(); });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (list.hidden) return;
      event.preventDefault();
      at = (at + (event.key === "ArrowDown" ? 1 : -1) + offered.length + (at < 0 && event.key === "ArrowUp" ? 1 : 0)) % offered.length;
      draw();
    } else if (event.key === "Enter") { event.preventDefault(); pick(at >= 0 ? offered[at].name : input.value); }
    else if (event.key === "Tab" && !list.hidden && offered.length) { event.preventDefault(); pick(offered[Math.max(0, at)].name); }
    else if (event.key === "Escape") { if (list.hidden) input.blur(); else close(); event.stopPropagation(); }
    else if (event.key === "Backspace" && !input.value && onEmptyBackspace) onEmptyBackspace();
  });
  return { node: h("div.ls-tag-field", null, input, list), input };
}

/** options: words(), onChange(tags) -> promise */
export function chipsEditor({ words, onChange }) {
  let tags = [], trigger = "", dragged = -1;
  const box = h("div.ls-chips", { role: "list", "aria-label": "Tags of this picture" });
  const field = tagField({
    placeholder: "Add a tag", label: "Add a tag", id: "ls-add-tag", words,
    onPick: (text) => { if (!tags.some((tag) => tag.toLowerCase() === text.toLowerCase())) set([...tags, text]); },
    onEmptyBackspace: () => { if (tags.length) set(tags.slice(0, -1)); },
  });
  function set(next, focus = -1) { tags = next; draw(); if (focus >= 0 && box.children[focus]) box.children[focus].focus(); onChange(tags); }
  function move(from, to) { if (to < 0 || to >= tags.length || from === to) return; const next = [...tags]; next.splice(to, 0, ...next.splice(from, 1)); set(next, to); }
  function draw() {
    fill(box, tags.map((tag, index) => {
      const chip = h("span.ls-tag" + (trigger && tag.toLowerCase() === trigger.toLowerCase() ? ".trigger" : ""), { role: "listitem", tabindex: "0", draggable: "true", "aria-label": `${tag}, tag ${index + 1} of ${tags.length}` },
        h("span", null, tag), h("button", { type: "button", tabindex: "-1", "aria-label": `Remove ${tag}`, onclick: () => set(tags.filter((_, other) => other !== index)) }, icon("close", 9)));
      chip.addEventListener("keydown", (event) => {
        if (event.key === "Delete" || event.key === "Backspace") { event.preventDefault(); set(tags.filter((_, other) => other !== index), Math.min(index, tags.length - 2)); }
        else if (event.altKey && (event.key === "ArrowLeft" || event.key === "ArrowRight")) { event.preventDefault(); move(index, index + (event.key === "ArrowLeft" ? -1 : 1)); }
        else if (event.key === "ArrowLeft" || event.key === "ArrowRight") { event.preventDefault(); const other = box.children[index + (event.key === "ArrowLeft" ? -1 : 1)]; if (other) other.focus(); }
      });
      chip.addEventListener("dragstart", (event) => { dragged = index; event.dataTransfer.setData("text/plain", tag); });
      chip.addEventListener("dragover", (event) => { if (dragged >= 0) { event.preventDefault(); chip.classList.add("over"); } });
      chip.addEventListener("dragleave", () => chip.classList.remove("over"));
      chip.addEventListener("drop", (event) => { event.preventDefault(); event.stopPropagation(); if (dragged >= 0) move(dragged, index); dragged = -1; });
      chip.addEventListener("dragend", () => { dragged = -1; });
      return chip;
    }));
    if (!tags.length) fill(box, h("span.ls-muted", null, "No tags yet."));
  }
  return {
    node: h("div", null, box, field.node),
    focus: () => field.input.focus(),
    show(caption, word) {
      const next = split(caption);
      if (word === trigger && JSON.stringify(next) === JSON.stringify(tags) && box.childElementCount) return;
      trigger = word;
      tags = next;
      draw();
    },
  };
}
