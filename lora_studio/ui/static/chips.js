// Tags as chips: add with completion, remove, change, move; the trigger word stays first. And the field that completes.
import { fill, h, icon } from "./core.js";

export const split = (caption) => {
  const seen = new Set();
  return caption.replaceAll("\n", ",").split(",").map((tag) => tag.trim()).filter((tag) => tag && !seen.has(tag.toLowerCase()) && seen.add(tag.toLowerCase()));
};

/**
 * A text field that offers words. options: placeholder, label, id, words(asked) -> [{name, count, category, alias}],
 * onPick(text) -> what the field shall hold then, if anything; onEmptyBackspace(), onEmptyKey(event) -> true when it was for it;
 * several: it holds tags with commas, and Enter picks only what the arrows have chosen
 */
export function tagField({ placeholder, label, id, words, onPick, onEmptyBackspace, onEmptyKey, several = false }) {
  const listId = `ls-words-${Math.random().toString(36).slice(2, 8)}`;
  const input = h("input.ls-input", { type: "text", placeholder, "aria-label": label, id, autocomplete: "off", role: "combobox", "aria-expanded": "false", "aria-controls": listId, maxlength: "2000" });
  const list = h("div.ls-words", { id: listId, role: "listbox", hidden: true });
  let offered = [], at = -1;
  const close = () => { list.hidden = true; fill(list); input.setAttribute("aria-expanded", "false"); at = -1; };
  const begun = () => (several ? input.value.slice(0, input.value.lastIndexOf(",") + 1) : ""); // what stands before the tag that is typed
  function pick(text) {
    const clean = `${begun()} ${text}`.trim();
    close();
    input.focus();
    if (!clean) return;
    const kept = onPick(clean);
    input.value = typeof kept === "string" ? kept : "";
  }
  const named = (word) => word.alias || word.name;
  function offer() {
    const asked = input.value.slice(begun().length).trim().toLowerCase();
    if (!asked) { close(); return; }
    const all = words(asked);
    offered = [...all.filter((word) => word.name.toLowerCase().startsWith(asked)), ...all.filter((word) => !word.name.toLowerCase().startsWith(asked) && word.name.toLowerCase().includes(asked))].slice(0, 8);
    at = -1;
    list.hidden = !offered.length;
    input.setAttribute("aria-expanded", String(!list.hidden));
    draw();
    if (!list.hidden) list.scrollIntoView({ block: "nearest" });
  }
  function draw() {
    fill(list, offered.map((word, index) => h("div.ls-word" + (index === at ? ".current" : ""), { role: "option", "aria-selected": String(index === at), onpointerdown: (event) => { event.preventDefault(); pick(named(word)); } },
      h("span", null, word.name, word.alias && h("span.ls-faint", null, ` → ${word.alias}`)), h("span.ls-faint", null, word.count ? String(word.count) : word.category || ""))));
  }
  input.addEventListener("input", () => { const comma = several ? -1 : input.value.lastIndexOf(","), whole = split(input.value.slice(0, Math.max(0, comma))); if (whole.length) onPick(whole.join(", ")); if (comma >= 0) input.value = input.value.slice(comma + 1).trimStart(); offer(); });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (!input.value && onEmptyKey && onEmptyKey(event)) { event.preventDefault(); event.stopPropagation(); return; }
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (list.hidden) return;
      event.preventDefault();
      at = (at + (event.key === "ArrowDown" ? 1 : -1) + offered.length + (at < 0 && event.key === "ArrowUp" ? 1 : 0)) % offered.length;
      draw();
    } else if (event.key === "Enter") { if (!input.value.trim() || (several && at < 0)) return; event.preventDefault(); pick(at >= 0 ? named(offered[at]) : input.value); }
    else if (event.key === "Tab" && !list.hidden && offered.length && !event.shiftKey) { event.preventDefault(); pick(named(offered[Math.max(0, at)])); }
    else if (event.key === "Escape") { if (list.hidden) input.blur(); else close(); event.stopPropagation(); }
    else if (event.key === "Backspace" && !input.value && onEmptyBackspace) onEmptyBackspace();
  });
  return { node: h("div.ls-tag-field", null, input, list), input };
}

/**
 * {node, input, show(tags, options), focus()}. options of the editor: words(asked), onAdd(tags, place or -1), onRemove(tags),
 * onOrder(tags), onEmptyKey(event). options of show: trigger; lacking: it stands first, but not in the caption; of: how many
 * pictures these are the tags of, with counts: tag -> how many have it; cut: from which place on a text encoder does not
 * read them, null when it reads all.
 */
export function chipsEditor({ words, onAdd, onRemove, onOrder, onEmptyKey }) {
  let tags = [], locked = -1, many = false, dragged = -1, replaced = "", drawn = "";
  const box = h("div.ls-chips", { role: "list", "aria-label": "Tags" });
  const field = tagField({
    placeholder: "Add a tag", label: "Add a tag", id: "ls-add-tag", words, onEmptyKey,
    onPick: (text) => { const place = replaced ? tags.indexOf(replaced) : -1; replaced = ""; onAdd(split(text), place); return ""; },
    onEmptyBackspace: () => { if (!many && tags.length > locked + 1) onRemove([tags.at(-1)]); },
  });
  field.input.addEventListener("blur", () => { replaced = ""; });
  function remove(index, focus) { if (index === locked) return; onRemove([tags[index]]); if (focus) focusChip(Math.min(index, tags.length - 1)); }
  function focusChip(index) { const chip = box.children[index]; if (chip && chip.focus) chip.focus(); else field.input.focus(); }
  function move(from, to) {
    if (many || from <= locked || to <= locked || to >= tags.length || from === to) return;
    const next = [...tags];
    next.splice(to, 0, ...next.splice(from, 1));
    onOrder(next);
    focusChip(to);
  }
  /** The tag's text goes into the field; what is picked there takes its place. */
  function change(index) { if (many || index === locked) return; replaced = tags[index]; field.input.focus(); field.input.value = replaced; field.input.select(); replaced = tags[index]; }

  function onKey(event) {
    const index = [...box.children].indexOf(event.target), key = event.key;
    if (index < 0 || event.ctrlKey || event.metaKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (step && event.altKey) move(index, index + step);
    else if (step) focusChip(Math.max(0, index + step));
    else if (key === "Home" || key === "End") focusChip(key === "Home" ? 0 : tags.length - 1);
    else if (key === "Delete" || key === "Backspace") remove(index, true);
    else if (key === "Enter" || key === "F2") change(index);
    else if (key === "Escape") box.dispatchEvent(new CustomEvent("ls:leave", { bubbles: true }));
    else return;
    event.preventDefault();
  }
  const placeOf = (event) => { const chip = event.target.closest(".ls-tag"); return chip ? [...box.children].indexOf(chip) : -1; };
  box.addEventListener("keydown", onKey);
  box.addEventListener("click", (event) => { if (event.target.closest("button")) remove(placeOf(event), false); });
  box.addEventListener("dblclick", (event) => { const place = placeOf(event); if (place >= 0) change(place); });
  box.addEventListener("dragstart", (event) => { dragged = placeOf(event); event.dataTransfer.setData("text/plain", tags[dragged] || ""); event.dataTransfer.effectAllowed = "move"; });
  box.addEventListener("dragover", (event) => {
    if (dragged < 0) return;
    event.preventDefault();
    for (const chip of box.children) chip.classList.remove("over");
    const place = placeOf(event);
    if (place > locked) box.children[place].classList.add("over");
  });
  box.addEventListener("drop", (event) => { event.preventDefault(); event.stopPropagation(); const place = placeOf(event); if (dragged >= 0) move(dragged, place < 0 ? tags.length - 1 : place); dragged = -1; });
  box.addEventListener("dragend", () => { dragged = -1; for (const chip of box.children) chip.classList.remove("over"); });

  function chip(tag, index, { counts, of, cut, lacking }) {
    const first = index === locked, count = counts ? counts.get(tag) : 0, part = counts && count < of;
    return h("span.ls-tag" + (first ? ".trigger" : "") + (first && lacking ? ".lacking" : "") + (part ? ".part" : "") + (cut !== null && cut !== undefined && index >= cut ? ".cut" : ""), {
      role: "listitem", tabindex: "0", draggable: first || many ? null : "true", "aria-label": first ? `${tag}, the trigger word, always first` : `${tag}, tag ${index + 1} of ${tags.length}`,
      title: first ? (lacking ? "The trigger word: comes first as soon as there is a caption" : "The trigger word: always first") : part ? `${count} of ${of} have it` : cut !== null && cut !== undefined && index >= cut ? "Behind the limit: not read in training" : null,
    }, first && icon("lock", 11), tag, part ? h("span.count", null, String(count)) : null, first ? null : h("button", { type: "button", tabindex: "-1", "aria-label": `Remove ${tag}` }));
  }
  return {
    node: h("div", null, box, field.node),
    input: field.input,
    focus: () => field.input.focus(),
    show(next, options = {}) {
      const trigger = options.trigger || "", key = JSON.stringify([next, trigger, options.lacking, options.of, options.cut, options.counts ? [...options.counts.values()] : 0]);
      if (key === drawn) return;
      const had = box.contains(document.activeElement) ? [...box.children].indexOf(document.activeElement) : -1;
      drawn = key;
      tags = next;
      many = Boolean(options.counts);
      locked = trigger && tags[0] === trigger ? 0 : -1;
      fill(box, tags.map((tag, index) => chip(tag, index, options)));
      if (!tags.length) fill(box, h("span.ls-muted", null, "No tags yet."));
      if (had >= 0) focusChip(Math.min(had, tags.length - 1));
    },
  };
}
