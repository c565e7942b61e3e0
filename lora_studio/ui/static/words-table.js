// "Tags": every tag with how often it stands where, and what can be done with it in all, the filtered or the selected pictures.
import { button, fill, h, icon, number, plural, refill, thumb } from "./core.js";
import { pictures, used } from "./pictures.js";
import { undoLast } from "./shell.js";
import { answer, having, percent, shareBar } from "./words-ask.js";
import { ON_PROSE, TIDY, add, front, merge, place, remove, rename, replace, tidy } from "./words-edits.js";
import { tagRows } from "./words-rows.js";

const COLUMNS = [
  { name: "tag", title: "Tag" },
  { name: "category", title: "Category" },
  { name: "count", title: "Pictures", number: true },
  { name: "share", title: "Share", hint: "In how many of all pictures it stands" },
  { name: "beside", title: "With trigger", hint: "How many of its pictures have the trigger too" },
];
const DOWN = ["count", "share", "beside"]; // sorted from the largest first
const THUMBS = 8;
const KEYS = [["↑ ↓", "tag"], ["Space", "add"], ["Enter", "rename"], ["M", "merge"], ["Del", "delete"], ["F", "to the front"], ["S", "pictures"], ["/", "find"], ["U", "undo"]];

export function tableView({ show, scope }) {
  const table = answer("words.table", draw);
  let rows = [], shown = [], query = "", category = "", sort = { name: "count", down: true }, where = "all", drawn = null;
  const find = h("input.ls-search", { type: "search", placeholder: "Find a tag", "aria-label": "Find a tag", id: "ls-tags-find", oninput: () => { query = find.value.trim().toLowerCase(); drawRows(); }, onkeydown: (event) => { if (event.key === "ArrowDown" || event.key === "Enter") { event.preventDefault(); list.focus(); if (shown.length && !list.selected.length) list.select([shown[0].tag]); } else if (event.key === "Escape") { if (find.value) { find.value = query = ""; drawRows(); } else list.focus(); event.stopPropagation(); } } });
  const categories = h("select.ls-order", { "aria-label": "Category", id: "ls-tags-category", onchange: () => { category = categories.value; drawRows(); } });
  const told = h("span.ls-muted", { "aria-live": "polite" }), side = h("div.ls-side.ls-words-side"), empty = h("div.ls-tags-empty", { hidden: true });
  const list = tagRows({
    label: "Tags", columns: COLUMNS, key: (row) => row.tag, cells, onSelect: sideLater, onKey,
    onSort: (name) => { sort = { name, down: sort.name === name ? !sort.down : DOWN.includes(name) }; drawRows(); },
    onOpen: (row) => { list.select([row.tag]); run("rename"); },
  });
  const node = h("div.ls-words-view", null,
    h("div.ls-words-main", null, h("div.ls-toolbar", null, h("div.ls-search-box.ls-tags-find", null, icon("search", 14), find), h("span.ls-pick", null, categories), told),
      h("div.ls-tags-stage", null, list.node, empty), h("div.ls-keys", null, KEYS.map(([key, text]) => h("span", null, h("kbd", null, key), " ", text)))), side);

  function cells(row) {
    const trigger = table.found.trigger && row.tag.toLowerCase() === table.found.trigger.toLowerCase();
    return [[h("span.ls-ellipsis", { title: row.tag }, row.tag), trigger && h("span.ls-badge.accent", null, "trigger")], h("span.ls-ellipsis.ls-muted", null, trigger ? "–" : row.category), h("span.ls-tags-count", null, number(row.count)), shareBar(row.share),
      table.found.trigger && !trigger ? shareBar(row.beside, "quiet") : h("span.ls-faint", null, "–")];
  }

  // ---- what is changed where ------------------------------------------------------------------------------------------

  /** {name: [title, ids]}: what a change can be narrowed to; ids null: every picture that is trained. */
  function scopes() {
    const { filtered = null, selected = [] } = scope();
    const all = pictures.all.filter(used).length;
    return { all: [`All ${number(all)}`, "used"], ...(filtered && filtered.length ? { filtered: [`Filtered ${number(filtered.length)}`, filtered] } : {}), ...(selected.length > 1 ? { selected: [`Selected ${number(selected.length)}`, selected] } : {}) };
  }
  const mode = () => scope().mode || "tags";
  const ids = () => { const found = scopes(); return (found[where] || found.all)[1]; };
  function within(tags) { const wanted = ids(), have = having(tags); if (wanted === "used") return have; const set = new Set(wanted); return have.filter((id) => set.has(id)); }

  const RUN = {
    rename: { one: true, run: ([tag]) => rename(tag, { ids: ids() }) },
    merge: { many: true, run: (tags) => merge(tags, { ids: ids(), best: best(tags) }) },
    remove: { run: (tags) => remove(tags, { ids: ids() }) },
    front: { run: (tags) => front(tags, { ids: ids() }) },
    place: { one: true, run: ([tag]) => place(tag, { ids: within([tag]) }) },
    show: { run: (tags) => { const found = within(tags); if (found.length) show(found, tags.length === 1 ? tags[0] : `${tags.length} tags`); } },
  };
  const best = (tags) => tags.map((tag) => rows.find((row) => row.tag === tag)).filter(Boolean).sort((a, b) => b.count - a.count)[0].tag;
  async function run(name) {
    const tags = list.selected, one = RUN[name];
    if (!tags.length || (one.one && tags.length > 1) || (one.many && tags.length < 2)) return;
    await one.run(tags);
    if (name !== "show") list.focus();
  }
  async function whole(work) { await work({ ids: ids(), fields: { tags: ["caption"], prose: ["prose"], both: ["caption", "prose"] }[mode()] }); }

  function onKey(event) {
    const work = { f: () => run("front"), m: () => run("merge"), s: () => run("show"), p: () => run("place"), f2: () => run("rename"), delete: () => run("remove"), backspace: () => run("remove"), "/": () => find.focus(), u: () => undoLast() }[event.key.toLowerCase()];
    if (work) Promise.resolve(work()).catch(() => {});
    return Boolean(work);
  }

  // ---- drawing --------------------------------------------------------------------------------------------------------

  function drawRows() {
    const by = { tag: (row) => row.tag.toLowerCase(), category: (row) => row.category, count: (row) => row.count, share: (row) => row.share, beside: (row) => row.beside }[sort.name];
    shown = rows.filter((row) => (!category || row.category === category) && (!query || row.tag.toLowerCase().includes(query)));
    shown.sort((a, b) => { const x = by(a), y = by(b), order = x < y ? -1 : x > y ? 1 : 0; return (sort.down ? -order : order) || b.count - a.count || (a.tag < b.tag ? -1 : 1); });
    told.textContent = shown.length === rows.length ? plural(rows.length, "tag") : `${number(shown.length)} of ${plural(rows.length, "tag")}`;
    list.set(shown, sort, new Set(rows.map((row) => row.tag)));
    empty.hidden = shown.length > 0;
    if (!shown.length) fill(empty, h("div.ls-empty", null, table.problem ? icon("warn", 28) : table.found ? icon(rows.length ? "search" : "image", 28) : h("span.ls-spinner"), h("h3", null, table.problem || (!table.found ? "Counting the tags" : rows.length ? "No tag like that" : mode() === "prose" ? "These captions are sentences" : "No tags yet")),
      table.found && !table.problem && (rows.length ? button("Show all tags", () => { find.value = query = category = ""; categories.value = ""; drawRows(); }) : h("p", null, mode() === "prose" ? "This table counts tags. What can be done with sentences stands on the right." : "Let the auto-tagger describe the pictures, or write captions yourself."))));
  }

  function drawCategories() {
    const counts = new Map();
    for (const row of rows) counts.set(row.category, (counts.get(row.category) || 0) + 1);
    if (!counts.has(category)) category = "";
    fill(categories, h("option", { value: "" }, "All categories"), [...counts].sort((a, b) => b[1] - a[1]).map(([name, count]) => h("option", { value: name }, `${name} (${count})`)));
    categories.value = category;
  }

  function scopeLine() {
    const found = scopes();
    if (!found[where]) where = "all";
    if (Object.keys(found).length === 1) return h("div.ls-muted.ls-words-scope", { title: "Filter or select pictures in the view Pictures to change only those" }, `Changes touch ${found.all[0].toLowerCase()} pictures.`);
    return h("div.ls-words-scope", null, h("span.ls-muted", { id: "ls-scope-label" }, "Change captions of"), h("div.ls-segments", { role: "group", "aria-labelledby": "ls-scope-label" },
      Object.entries(found).map(([name, [title]]) => h("button.ls-segment" + (name === where ? ".current" : ""), { type: "button", id: `ls-scope-${name}`, "aria-pressed": String(name === where), onclick: () => { where = name; drawSide(); } }, title))));
  }

  function chosenSection() {
    const tags = list.selected;
    if (!tags.length) return h("section", null, h("h2", null, "No tag selected"), h("div.ls-muted", null, "Click a tag; Ctrl or Shift takes more. What each change does is shown before it happens."));
    const row = rows.find((one) => one.tag === tags[0]), found = within(tags), one = tags.length === 1;
    return h("section", { "aria-label": "Selected tags" },
      h("h2.ls-words-title", null, one ? tags[0] : `${number(tags.length)} tags`),
      h("div.ls-muted", null, one ? `${row.category} · ${plural(row.count, "picture")} · ${percent(row.share)}` : `in ${plural(found.length, "picture")}: ${tags.slice(0, 6).join(", ")}${tags.length > 6 ? ` and ${tags.length - 6} more` : ""}`),
      found.length > 0 && h("div.ls-words-thumbs", null, found.slice(0, THUMBS).map((id) => h("button", { type: "button", tabindex: "-1", title: `#${id} ${pictures.byId.get(id).name}`, "aria-label": `Show #${id}`, onclick: () => show([id], `#${id}`) }, h("img", { src: thumb(pictures.byId.get(id)), alt: "", loading: "lazy" })))),
      h("div.ls-words-do", null,
        one ? button("Rename", () => run("rename"), { id: "ls-tag-rename" }) : button("Merge into one", () => run("merge"), { id: "ls-tag-merge" }),
        button("Delete", () => run("remove"), { id: "ls-tag-remove", kind: "danger" }),
        button("To the front", () => run("front"), { id: "ls-tag-front" }),
        one && button("To a place", () => run("place"), { id: "ls-tag-place" })),
      button(`Show ${plural(found.length, "picture")}`, () => run("show"), { icon: "image", kind: "quiet", id: "ls-tag-show", disabled: !found.length }));
  }

  /** The row is marked at once; what stands beside it follows when the keys rest. */
  let waiting = 0;
  function sideLater() { clearTimeout(waiting); waiting = setTimeout(drawSide, 40); }
  function drawSide() {
    clearTimeout(waiting);
    if (!table.found || (!rows.length && (mode() !== "prose" || !pictures.all.some(used)))) { fill(side); side.hidden = true; return; }
    side.hidden = false;
    const row = (id, title, text, work) => h("button.ls-words-tidy", { type: "button", id, onclick: () => work().catch(() => {}) }, h("b", null, title), h("span.ls-muted", null, text));
    const prose = mode() === "prose";
    refill(side, scopeLine(), rows.length > 0 && chosenSection(), h("section", { "aria-label": "Whole captions" }, h("h3", null, prose ? "Sentences" : "Whole captions"), h("div.ls-words-tidies", null,
      !prose && row("ls-words-add", "Add a tag", "In front, at a place or at the end.", () => whole(add)), row("ls-words-replace", "Find and replace", "Letters or a regular expression.", () => whole(replace)),
      Object.entries(TIDY).filter(([name]) => (name !== "trigger" || table.found.trigger) && (!prose || ON_PROSE.includes(name))).map(([name, [title, text]]) => row(`ls-words-${name}`, title, text, () => whole((options) => tidy(name, options)))))));
  }

  function draw() {
    table.ask(scope().mode);
    if (drawn !== table.found || table.problem) {
      drawn = table.found;
      rows = (table.found ? table.found.rows : []).map(([tag, count, share, category_, beside]) => ({ tag, count, share, category: category_, beside }));
      drawCategories();
    }
    drawRows();
    drawSide();
  }
  return { node, draw, onKey: (event) => list.keyed(event) };
}
