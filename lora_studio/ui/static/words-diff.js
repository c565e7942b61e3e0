// What a change will do to captions, seen before it happens. Tags are hostile text: they only become text nodes.
import { Failure, button, dialog, fill, h, icon, number, plural, thumb, toast } from "./core.js";
import { pictures } from "./pictures.js";
import { undoLast } from "./shell.js";

const ROWS = 200; // drawn at most; how many there are is told
const SLICE = 25; // drawn in one frame
const AROUND = 2; // unchanged words shown on each side of a change
const WORDS = 160; // of one text drawn at most
const COMPARED = 250_000; // cells of the comparison; longer texts are compared as sets of words
const SIGNS = { gone: "−", new: "+", moved: "↔" };
const NAMES = { gone: "removed", new: "added", moved: "moved" };

/** The parts that a text is compared by: tags between commas, or the words of sentences. */
const parts = (text, field) => (field === "prose" ? text.split(/\s+/) : text.split(/[,\n]/).map((tag) => tag.trim())).filter(Boolean);

/** Which places of `a` and of `b` are the same, in order: the longest common subsequence. */
function common(a, b) {
  const width = b.length + 1, lengths = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      lengths[i * width + j] = a[i] === b[j] ? lengths[(i + 1) * width + j + 1] + 1 : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    }
  }
  const inA = new Set(), inB = new Set();
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) { inA.add(i); inB.add(j); i += 1; j += 1; } else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i += 1; else j += 1;
  }
  return [inA, inB];
}

/** {before, after}: lists of {text, kind}, kind "" (the same), "gone", "new" or "moved". */
export function marked(before, after, field = "caption") {
  const a = parts(before, field), b = parts(after, field);
  let from = 0, behind = 0;
  while (from < a.length && from < b.length && a[from] === b[from]) from += 1;
  while (behind < a.length - from && behind < b.length - from && a[a.length - 1 - behind] === b[b.length - 1 - behind]) behind += 1;
  const midA = a.slice(from, a.length - behind), midB = b.slice(from, b.length - behind);
  let sameA, sameB;
  if (midA.length * midB.length <= COMPARED) [sameA, sameB] = common(midA, midB);
  else {
    const setA = new Set(midA), setB = new Set(midB);
    sameA = new Set([...midA.keys()].filter((place) => setB.has(midA[place])));
    sameB = new Set([...midB.keys()].filter((place) => setA.has(midB[place])));
  }
  const left = new Map(); // what went from one place may stand at another
  if (field !== "prose") midA.forEach((text, place) => { if (!sameA.has(place)) left.set(text, (left.get(text) || 0) + 1); });
  const moves = new Map();
  const same = (list) => list.map((text) => ({ text, kind: "" }));
  const middleB = midB.map((text, place) => {
    if (sameB.has(place)) return { text, kind: "" };
    if (!left.get(text)) return { text, kind: "new" };
    left.set(text, left.get(text) - 1);
    moves.set(text, (moves.get(text) || 0) + 1);
    return { text, kind: "moved" };
  });
  const middleA = midA.map((text, place) => {
    if (sameA.has(place)) return { text, kind: "" };
    if (!moves.get(text)) return { text, kind: "gone" };
    moves.set(text, moves.get(text) - 1);
    return { text, kind: "moved" };
  });
  const start = same(a.slice(0, from)), end = same(a.slice(a.length - behind));
  const found = { before: [...start, ...middleA, ...end], after: [...start, ...middleB, ...end] };
  return field === "prose" ? { before: phrases(found.before), after: phrases(found.after) } : found;
}

/** Words of sentences that follow each other and fare alike, as one. */
function phrases(words) {
  const found = [];
  for (const word of words) {
    if (word.kind && found.length && found.at(-1).kind === word.kind) found.at(-1).text += ` ${word.text}`; else found.push({ ...word });
  }
  return found;
}

/** The places of `words` at which the other side has something that is not there. */
function gaps(words, others) {
  const found = [];
  for (let i = 0, j = 0; j < others.length;) {
    if (i < words.length && words[i].kind) i += 1; else if (others[j].kind) { found.push(i); j += 1; } else { i += 1; j += 1; }
  }
  return found;
}

/** Long runs of what stays the same make way for their number. */
function shortened(words, others) {
  const near = new Set();
  words.forEach((word, place) => { if (word.kind) for (let other = place - AROUND; other <= place + AROUND; other += 1) near.add(other); });
  for (const place of gaps(words, others)) for (let other = place - AROUND; other < place + AROUND; other += 1) near.add(other);
  const shown = [];
  let skipped = [];
  const close = () => {
    if (skipped.length > 2) shown.push({ text: `… ${number(skipped.length)} more …`, kind: "skipped", title: skipped.slice(0, 60).map((word) => word.text).join(", ").slice(0, 900) }); else shown.push(...skipped);
    skipped = [];
  };
  words.forEach((word, place) => { if (near.has(place)) { close(); shown.push(word); } else skipped.push(word); });
  close();
  return shown.length > WORDS ? [...shown.slice(0, WORDS), { text: `… ${number(shown.length - WORDS)} more …`, kind: "skipped" }] : shown;
}

const TAGS = { gone: "del", new: "ins" };
function side(words, others, name, field) {
  const shown = shortened(words, others);
  return h(`div.ls-diff-${name}` + (field === "prose" ? ".prose" : ""), { "data-side": name }, shown.length ? shown.map(({ text, kind, title }) =>
    [h(`${TAGS[kind] || "span"}.ls-diff-word` + (kind ? `.${kind}` : ""), { title: title || NAMES[kind] || null }, SIGNS[kind] && h("i", { "aria-hidden": kind === "moved" ? null : "true" }, SIGNS[kind]), text), " "]) : h("span.ls-faint", null, "empty"));
}

/** One change of one text: the picture, what stands there and what will. */
export function diffRow({ id, field, before, after }) {
  const image = pictures.byId.get(id), words = marked(before, after, field);
  const plain = ![...words.before, ...words.after].some((word) => word.kind);
  return h("div.ls-diff-row", { role: "row", "data-id": id },
    h("div.ls-diff-picture", { role: "rowheader", title: image ? image.name : null }, image ? h("img", { src: thumb(image), alt: "", loading: "lazy" }) : null, h("span", null, `#${id}`)),
    h("div.ls-diff-cell", { role: "cell" }, side(words.before, words.after, "before", field)),
    h("div.ls-diff-cell", { role: "cell" }, side(words.after, words.before, "after", field), plain && h("div.ls-faint", null, "Only blanks, commas or line ends change.")));
}

/** Draw the rows a few at a time, so that nothing waits for them; `current()` says whether they are still wanted. */
function drawRows(list, changes, current) {
  let at = 0;
  const more = () => {
    if (!current()) return;
    list.append(...changes.slice(at, at + SLICE).map(diffRow));
    at += SLICE;
    if (at < Math.min(changes.length, ROWS)) requestAnimationFrame(more);
  };
  fill(list, h("div.ls-diff-row.head", { role: "row" }, ["", "Before", "After"].map((text) => h("div", { role: "columnheader" }, text))));
  more();
}

/**
 * A dialog that shows a diff of captions and asks whether to do it. Resolves with apply's answer, null when cancelled.
 *
 * preview() -> {label, count, changes: [{id, field, before, after}], digest}, or null while the form is not filled in;
 * apply(digest) does it. When it is refused (somebody changed a caption meanwhile) the diff is drawn anew. `form(again)`
 * may return a node above the diff, the fields of the change: it calls again() after each change of them; Enter in one of
 * them applies, and so does its second argument, submit(). `yes` is the word on the button, `note` a sentence above the
 * diff.
 */
export function confirmDiff({ title, preview, apply, form = null, yes = "Apply", note = null }) {
  return dialog(title, (close) => {
    let page = null, asked = 0, timer = 0, busy = false, wanted = false;
    const told = h("div.ls-diff-told", { role: "status", "aria-live": "polite" });
    const list = h("div.ls-diff-rows", { role: "table", "aria-label": "Changes of captions", tabindex: "0" });
    const go = button(yes, () => run(), { kind: "primary", id: "ls-diff-apply", disabled: true });

    function show(found) {
      page = found;
      go.disabled = !page || !page.count;
      list.hidden = !page || !page.count;
      if (!page) { fill(told); fill(list); return; }
      if (!page.count) { fill(told, icon("check", 15), h("span", null, "Nothing would change.")); fill(list); return; }
      const rest = page.total && page.total > page.changes.length ? page.total - page.changes.length : page.count - new Set(page.changes.map((one) => one.id)).size;
      fill(told, h("b", null, `${plural(page.count, "caption")} ${page.count === 1 ? "changes" : "change"}`), rest > 0 || page.changes.length > ROWS ? h("span.ls-muted", null, `the first ${number(Math.min(ROWS, page.changes.length))} are shown`) : null);
      const mine = asked;
      drawRows(list, page.changes, () => mine === asked);
    }

    async function look(problem = "") {
      const mine = ++asked;
      page = null;
      go.disabled = true;
      fill(told, h("span.ls-spinner"), h("span.ls-muted", null, "Working out what changes"));
      try {
        const found = await preview();
        if (mine !== asked) return;
        show(found);
        if (problem) told.prepend(h("div.ls-note.warn", { role: "alert" }, h("span", null, problem)));
        if (wanted) { wanted = false; if (!problem && page && page.count) await run(); }
        else if (!form && !go.disabled) go.focus();
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        if (mine !== asked) return;
        list.hidden = true;
        wanted = false;
        fill(told, h("div.ls-note.bad", { role: "alert" }, h("span", null, [error.message, error.remedy].filter(Boolean).join(" "))));
      }
    }

    async function run() {
      if (busy || !page || !page.count) return;
      busy = true;
      const { digest, count } = page;
      go.dataset.busy = "1";
      try {
        const answer = await apply(digest);
        close(answer === undefined ? { count } : answer);
        toast(`${plural(count, "caption")} changed`, { action: { text: "Undo", run: undoLast } });
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        await look([error.message, error.remedy].filter(Boolean).join(" "));
      } finally { busy = false; delete go.dataset.busy; }
    }

    const again = () => { clearTimeout(timer); asked += 1; wanted = false; go.disabled = true; page = null; timer = setTimeout(() => look(), 180); };
    const submit = () => { if (page) return run(); wanted = true; clearTimeout(timer); return look(); };
    const fields = form && form(again, submit);
    const node = h("div.ls-diff", { onkeydown: (event) => { if (event.key === "Enter" && event.target.tagName === "INPUT" && !event.defaultPrevented) { event.preventDefault(); submit(); } } },
      fields, note && h("div.ls-muted", null, note), told, list,
      h("div.ls-row.end", null, button("Cancel", () => close(), { kind: "quiet" }), go));
    look();
    return node;
  });
}
