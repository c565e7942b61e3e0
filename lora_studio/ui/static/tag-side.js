// Beside the grid: the picture and its texts, as chips, as text and as sentences; or what the chosen pictures have together.
import { button, call, fill, full, h, plural, state, thumb, toast } from "./core.js";
import { chipsEditor, split } from "./chips.js";
import { keepFocus } from "./focus.js";
import { editPictures, pictures } from "./pictures.js";
import { redoLast, undoLast } from "./shell.js";
import { tagIndex } from "./tag-index.js";
import { quickTags } from "./tag-quick.js";
import { conflictOf, saveText, settle } from "./tag-save.js";
import { textArea } from "./tag-text.js";
import { tokenMeter } from "./tag-tokens.js";

const THUMBS = 8;
const CHIPS = 60; // of many pictures together
const GHOSTS = 8;
const join = (tags) => tags.map((tag) => tag.replaceAll(",", " ").trim()).filter(Boolean).join(", ");
const same = (a, b) => a.toLowerCase() === b.toLowerCase();

/**
 * {node, draw(image, ids), focus(), ...what the keys of the tab call}. options: info() -> {trigger, captions, quick};
 * step(by): to another picture; open(): enlarge; place(): which one of those that are shown; onInfo(): quick tags changed.
 */
export function tagSide({ info, step, open, place, onInfo }) {
  let image = null, ids = [], guessed = [], asked = 0, timer = 0;
  const guesses = new Map(); // id -> what the tagger thinks
  const mode = () => info().captions || "tags", trigger = () => info().trigger || "";
  const key = (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") { step(1); return true; }
    if (event.key === "PageDown" || event.key === "PageUp") { step(event.key === "PageDown" ? 1 : -1); return true; }
    return false;
  };
  const chips = chipsEditor({
    words: tagIndex.words,
    onAdd: (tags, place) => add(tags, place),
    onRemove: (tags) => remove(tags),
    onOrder: (tags) => write(tags),
    onEmptyKey(event) {
      const control = event.ctrlKey || event.metaKey, letter = event.key.toLowerCase();
      if (control && letter === "z") { (event.shiftKey ? redoLast : undoLast)(); return true; }
      if (control && letter === "y") { redoLast(); return true; }
      if (control) return false;
      if (event.key === "ArrowDown" || event.key === "ArrowUp") { step(event.key === "ArrowDown" ? 1 : -1); return true; }
      if (event.key === "ArrowRight") return accept();
      if (event.key === "ArrowLeft") { const last = chips.node.querySelector(".ls-tag:last-child"); if (last) last.focus(); return Boolean(last); }
      return false;
    },
  });
  chips.input.addEventListener("keydown", (event) => { if (key(event)) { event.preventDefault(); event.stopPropagation(); } });
  const quick = quickTags({ tags: () => info().quick || [], words: tagIndex.words, onSaved: (tags) => { info().quick = tags; draw(); onInfo(); }, onPress: (tag) => press(tag) });
  const raw = textArea({ field: "caption", id: "ls-raw", label: "Caption as text", placeholder: "tags, with commas", onKey: key });
  const prose = textArea({ field: "prose", id: "ls-prose", label: "Description in sentences", placeholder: "What the picture shows, in a sentence or two", onKey: key });
  const meter = tokenMeter({ onCut: () => drawChips() });

  const picture = h("img.ls-side-picture", { alt: "", title: "Enlarge (Z)", onclick: () => open() }), strip = h("div.ls-thumbs"), title = h("div.ls-tag-title");
  const clash = h("div"), ghosts = h("div.ls-ghosts", { role: "group", "aria-label": "Suggested by the tagger" });
  const asText = h("details.ls-as-text", { ontoggle: () => localStorage.setItem("lora-studio-as-text", asText.open ? "yes" : "") }, h("summary", null, "As text"), raw.node);
  asText.open = Boolean(localStorage.getItem("lora-studio-as-text"));
  const sentences = h("label.ls-sentences", null, h("span.ls-label", null, "Sentences"), prose.node);
  const tags = h("div.ls-tagged", null, chips.node, ghosts, quick.node);
  const node = h("div.ls-side.ls-tagside", null, strip, picture, title, clash, tags, asText, sentences, meter.node);

  // ---- edits ----------------------------------------------------------------------------------------------------------

  const many = () => ids.length > 1;
  /** The caption of these tags: the trigger first. */
  const caption = (list) => join(split(join(trigger() ? [trigger(), ...list.filter((tag) => !same(tag, trigger()))] : list)));
  function write(list) { raw.flush(); return saveText(image, "caption", caption(list)); }

  function add(list, place = -1) {
    if (!image || !list.length) return;
    if (many()) return each("tagging.add", list, (one) => [...tagIndex.tags(one), ...list.filter((tag) => !tagIndex.has(one, tag.toLowerCase()))]);
    const now = [...tagIndex.tags(image)], fresh = list.filter((tag) => !now.some((other) => same(other, tag)));
    if (place >= 0) { const at = now.findIndex((tag) => same(tag, shownTags()[place])); if (at >= 0) { now.splice(at, 1, ...fresh); return write(now); } }
    if (fresh.length) return write([...now, ...fresh]);
  }
  function remove(list) {
    const gone = list.map((tag) => tag.toLowerCase());
    const without = (one) => tagIndex.tags(one).filter((tag) => !gone.includes(tag.toLowerCase()));
    if (many()) return each("tagging.remove", list, without);
    return write(without(image));
  }
  /** The same for all chosen pictures: shown at once, one step of undo. */
  async function each(name, list, change) {
    const touched = ids.filter((id) => { const one = pictures.byId.get(id); return caption(change(one)) !== caption(tagIndex.tags(one)); });
    if (!touched.length) return;
    const text = list.join(", ");
    const answer = await editPictures(name, { ids: touched, tags: list }, null, { ids: touched, values: (one) => ({ caption: caption(change(one)) }) });
    toast(name === "tagging.add" ? `${text}: added to ${plural(answer.count, "caption")}` : `${text}: taken out of ${plural(answer.count, "caption")}`, { action: { text: "Undo", run: undoLast } });
  }
  const hasAll = (tag) => ids.length > 0 && ids.every((id) => tagIndex.has(pictures.byId.get(id), tag.toLowerCase()));
  /** Give the tag to the chosen pictures, or take it from them when all have it. */
  function press(tag) { if (tag && image && mode() !== "prose") return hasAll(tag) ? remove([tag]) : add([tag]); }
  /** Take the first suggestion over. */
  function accept(tag = offered()[0]) { if (!tag) return false; add([typeof tag === "string" ? tag : tag[0]]); return true; }

  // ---- drawing --------------------------------------------------------------------------------------------------------

  const shownTags = () => { const own = tagIndex.tags(image), word = trigger(); return word ? [word, ...own.filter((tag) => !same(tag, word))] : own; };

  function drawChips() {
    if (!image || mode() === "prose") return;
    if (!many()) {
      const list = shownTags();
      let end = 0, cut = null;
      if (meter.cut !== null) list.forEach((tag, place) => { end += tag.length + (place ? 2 : 0); if (cut === null && end > meter.cut) cut = place; });
      chips.show(list, { trigger: trigger(), lacking: trigger() && !tagIndex.has(image, trigger().toLowerCase()), cut });
      return;
    }
    const counts = new Map(), names = new Map();
    for (const id of ids) for (const tag of tagIndex.tags(pictures.byId.get(id))) {
      const small = tag.toLowerCase();
      if (!names.has(small)) names.set(small, tag);
      counts.set(names.get(small), (counts.get(names.get(small)) || 0) + 1);
    }
    const word = [...counts.keys()].find((tag) => same(tag, trigger()));
    const list = [...counts].filter(([tag]) => tag !== word).sort((a, b) => b[1] - a[1]).slice(0, CHIPS).map(([tag]) => tag);
    chips.show(word ? [word, ...list] : list, { trigger: word || "", counts, of: ids.length });
  }

  /** What the tagger sees and the caption does not say. */
  const offered = () => (image && !many() && mode() !== "prose" ? guessed.filter(([tag]) => !tagIndex.has(image, tag.toLowerCase()) && !same(tag, trigger())).slice(0, GHOSTS) : []);
  function drawGhosts() {
    keepFocus(ghosts, () => fill(ghosts, offered().map(([tag, chance], place) => h("button.ls-ghost", { type: "button", title: place ? "Add it" : "Add it (A)", "aria-label": `Add ${tag}, ${Math.round(100 * chance)} % sure`, onclick: () => accept(tag) },
      tag, h("span.count", null, `${Math.round(100 * chance)} %`), place ? null : h("kbd", null, "A")))));
  }
  async function guess(id) {
    const project = state.project, mine = ++asked;
    const found = await call("tagging.suggestions", { project, id }, { quiet: true }).catch(() => []);
    guesses.set(id, found);
    if (mine === asked && image && image.id === id) { guessed = found; drawGhosts(); }
  }

  function drawTitle() {
    fill(title, h("span.ls-name", { title: many() ? null : image.name }, many() ? `${plural(ids.length, "picture")} chosen` : `#${image.id} ${image.name}`), h("span.ls-faint", null, many() ? null : place()));
    if (many()) fill(strip, ids.slice(0, THUMBS).map((id) => h("img", { src: thumb(pictures.byId.get(id)), alt: "" })), ids.length > THUMBS && h("span.ls-faint", null, `+${ids.length - THUMBS}`));
  }

  /** Somebody else wrote the same text meanwhile: both are here until one is chosen. */
  function drawClash() {
    const found = many() ? null : conflictOf(image.id), drawn = JSON.stringify(found);
    clash.hidden = !found;
    if (clash.dataset.drawn === drawn) return;
    clash.dataset.drawn = drawn;
    if (!found) { fill(clash); return; }
    const both = found.field === "caption" ? join(split(`${found.theirs}, ${found.mine}`)) : "";
    const end = (text) => () => { settle(found, text); chips.focus(); };
    fill(clash, h("section.ls-clash", { role: "alert", id: "ls-clash" }, h("b", null, found.field === "prose" ? "These sentences were changed elsewhere meanwhile" : "This caption was changed elsewhere meanwhile"), h("p.ls-muted", null, "Nothing is lost: yours is not written yet. Choose what stays."),
      h("dl", null, h("dt", null, "There now"), h("dd", { id: "ls-clash-theirs" }, found.theirs || "empty"), h("dt", null, "Yours"), h("dd", { id: "ls-clash-mine" }, found.mine || "empty")),
      h("div.ls-row", null, button("Use yours", end(found.mine), { kind: "small", id: "ls-clash-use-mine" }), button("Keep theirs", end(null), { kind: "small", id: "ls-clash-keep" }), both && button("Join both", end(both), { kind: "small", id: "ls-clash-join" }))));
  }

  function draw() {
    for (const one of [picture, strip, title, clash, tags, asText, sentences]) one.hidden = !image;
    if (!image) { meter.node.hidden = true; return; }
    const single = !many(), words = mode() !== "prose", lines = mode() !== "tags";
    picture.hidden = !single;
    strip.hidden = single;
    tags.hidden = !words;
    asText.hidden = !words || !single;
    sentences.hidden = !lines || !single;
    if (single && picture.getAttribute("src") !== full(image)) { picture.src = full(image); picture.alt = image.name; }
    drawTitle();
    drawClash();
    drawChips();
    drawGhosts();
    quick.draw(hasAll);
    raw.show(image);
    prose.show(image);
    if (single) meter.show(words ? image.caption : "", lines ? image.prose : ""); else meter.node.hidden = true;
  }

  return {
    node,
    add, remove, press, accept,
    quick: (digit) => press(quick.tag(digit)),
    editQuick: quick.edit,
    focus() { if (mode() === "prose") prose.focus(); else chips.focus(); },
    focusProse() { if (mode() !== "tags") prose.focus(); },
    focusRaw() { if (mode() !== "prose") { asText.open = true; raw.focus(); } },
    focusChips() { const first = chips.node.querySelector(".ls-tag:not(.trigger)") || chips.node.querySelector(".ls-tag"); if (first) first.focus(); },
    copied: () => (image ? (many() ? join([...new Set(ids.flatMap((id) => tagIndex.tags(pictures.byId.get(id))))]) : image.caption) : ""),
    /** The tagger or the base may be another one: what was asked before may no longer hold. */
    forget() { guesses.clear(); guessed = []; meter.forget(); },
    draw(now, chosen) {
      const moved = now !== image && (!now || !image || now.id !== image.id);
      if (moved) { raw.flush(); prose.flush(); guessed = (now && guesses.get(now.id)) || []; }
      image = now;
      ids = chosen;
      draw();
      if (!now || many() || mode() === "prose" || guesses.has(now.id)) return;
      if (moved || !timer) { clearTimeout(timer); timer = setTimeout(() => { timer = 0; if (image && !many()) guess(image.id); }, 120); }
    },
  };
}
