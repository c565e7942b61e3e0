// Tagging: what the pictures show, in words. The grid with one picture's caption beside it, and views of all captions.
import { button, call, changed, fill, h, icon, number, part, plural, state, toast, typing } from "./core.js";
import { split } from "./chips.js";
import { filterBar } from "./filterbar.js";
import { createGrid, sizeButtons } from "./grid.js";
import { load, pictures, used as trained } from "./pictures.js";
import { redoLast, undoLast } from "./shell.js";
import { bulkEdit } from "./tag-bulk.js";
import { tagIndex } from "./tag-index.js";
import { tagList } from "./tag-list.js";
import { tagSide } from "./tag-side.js";
import { seenView } from "./tagger-seen.js";
import { taggerPanel } from "./tagger-panel.js";
import { tagViews } from "./words-views.js";

const MODES = { tags: ["Tags", "Short tags with commas"], prose: ["Sentences", "A description in sentences, never split at commas"], both: ["Both", "Tags, and then sentences"] };
const SORTS = [["", "In order of import"], ["name", "By name"], ["tags", "By number of tags"], ["caption", "By caption"]];
const KEYS = [["T", "add tags"], ["A", "as suggested"], ["1–9", "quick tags"], ["B", "change many"], ["U", "undo"], ["/", "filter"], ["?", "all keys"]];
const NOTHING = { trigger: "", captions: "tags", quick: [] };

part("tagging", (root) => {
  let info = NOTHING, view = "pictures", shownOf = null, listTimer = 0;
  const used = () => pictures.all.filter(trained);
  const mode = () => info.captions;
  const text = (image) => (mode() === "prose" ? image.prose : mode() === "both" ? [image.caption, image.prose].filter(Boolean).join(" · ") : image.caption);

  const grid = createGrid({
    label: "Pictures to tag",
    foot: (one) => text(one) || "no caption",
    mark: (one) => (mode() === "prose" ? (one.prose ? null : "empty") : String(tagIndex.tags(one).length)),
    warn: (one) => (mode() !== "prose" && !one.caption) || (mode() !== "tags" && !one.prose),
    onCurrent: () => side.draw(grid.current, grid.selected),
    onSelect: () => drawScope(),
    onKey: (event) => {
      const run = /^[1-9]$/.test(event.key) ? () => side.quick(Number(event.key)) : event.key === "U" ? redoLast : keys[event.key.toLowerCase()];
      if (run) Promise.resolve(run()).catch(() => {});
      return Boolean(run);
    },
    empty: () => (!pictures.loaded ? h("div.ls-empty", null, h("span.ls-spinner"), h("p", null, "Reading the pictures"))
      : used().length ? bar.empty() : h("div.ls-empty", null, icon("image", 30), h("h3", null, "No pictures yet"), h("p", null, "Gather some first."))),
  });
  const list = tagList({ onChange: refilter });
  const bar = filterBar({
    id: "ls-tag-filter", sortId: "ls-tag-sort", placeholder: "Filter: smile and not hat", find: "tagging.find", fields: "tagging.fields", sorts: SORTS, judged: false,
    all: used, extra: list, focusGrid: () => grid.node.focus(), onChange: refilter,
    more: (word) => tagIndex.words(word).filter((one) => one.count).map((one) => ({ name: one.name, example: /^[\w-]+$/.test(one.name) ? one.name : `"${one.name}"`, text: plural(one.count, "picture") })),
  });
  const side = tagSide({ info: () => info, step: (by) => grid.choose(grid.place(grid.current.id) + by), open: () => grid.enlarge(), place: () => `${number(grid.place(grid.current.id) + 1)} / ${number(grid.rows.length)}`, onInfo: () => grid.draw() });
  const keys = {
    t: () => side.focus(), d: () => side.focusProse(), w: () => side.focusRaw(), c: () => side.focusChips(), a: () => side.accept(), q: () => side.editQuick(), b: () => bulk("add"),
    u: undoLast, z: () => grid.enlarge(), l: () => list.focus(), "/": () => bar.focus(),
  };

  // ---- the page -------------------------------------------------------------------------------------------------------

  const tagger = taggerPanel({ scope: () => ({ shown: grid.rows.map((one) => one.id), selected: grid.selected }) });
  const views = [...tagViews({ show, scope: () => ({ filtered: bar.active ? grid.rows.map((one) => one.id) : null, selected: grid.selected, mode: mode() }) }), seenView()];
  const switcher = h("div.ls-segments", { role: "group", "aria-label": "View" }), modes = h("div.ls-segments", { role: "group", "aria-label": "What captions are" });
  const scopeBox = h("section.ls-bulk-offer"), count = h("span.ls-muted.ls-shown"), other = h("div.ls-view");
  side.node.append(scopeBox);
  const panes = h("div.ls-panes.three", null, list.node,
    h("div.ls-pane", null, h("div.ls-toolbar.ls-narrow", null, bar.node, bar.sort, sizeButtons(grid)), h("div.ls-found-line", null, count, bar.chips), grid.node, h("div.ls-keys", null, KEYS.map(([key, what]) => h("span", null, h("kbd", null, key), " ", what)))), side.node);
  fill(root, h("div.ls-tagging", null, h("div.ls-toolbar.ls-views", null, switcher, h("div.ls-fill"), tagger.node, modes), tagger.line, panes, other));

  function drawToolbar() {
    const all = [["pictures", "Pictures"], ...views.map((one) => [one.name, one.title])];
    fill(switcher, all.map(([name, title]) => h("button.ls-segment" + (name === view ? ".current" : ""), { type: "button", id: `ls-tag-view-${name}`, "aria-pressed": String(name === view), onclick: () => { view = name; draw(); } }, title)));
    fill(modes, Object.entries(MODES).map(([name, [title, about]]) => h("button.ls-segment" + (name === mode() ? ".current" : ""), { type: "button", id: `ls-mode-${name}`, title: about, "aria-pressed": String(name === mode()), onclick: () => chooseMode(name) }, title)));
  }
  async function chooseMode(name) {
    await call("tagging.captions", { project: state.project, captions: name });
    info.captions = name;
    side.forget();
    changed();
    draw();
  }

  /** What can be changed together: the chosen pictures, those that are shown, all. */
  function scopes() {
    const chosen = grid.selected, all = used();
    return [chosen.length > 1 && { title: "chosen", ids: chosen, count: chosen.length }, bar.active && grid.rows.length > 0 && { title: "shown", ids: grid.rows.map((one) => one.id), count: grid.rows.length },
      { title: "all", ids: all.map((one) => one.id), count: all.length }].filter(Boolean);
  }
  function drawScope() {
    const first = pictures.loaded && scopes()[0], key = JSON.stringify([first && [first.title, first.count], mode()]);
    if (scopeBox.dataset.key === key) return;
    scopeBox.dataset.key = key;
    if (!first || !first.count) { fill(scopeBox); return; }
    const prose = mode() === "prose";
    fill(scopeBox, h("span.ls-label", null, `Change ${first.title === "all" ? `all ${number(first.count)}` : `the ${number(first.count)} ${first.title}`}`),
      h("div.ls-row", null, !prose && [["add", "Add"], ["remove", "Remove"], ["rename", "Replace"]].map(([kind, title]) => button(title, () => bulk(kind), { kind: "small", id: `ls-bulk-${kind}` })), button(prose ? "Change…" : "More…", () => bulk(prose ? "text" : "regex"), { kind: "small", id: "ls-bulk-more", title: "B" })));
  }
  const bulk = (action) => used().length && bulkEdit(action, { scopes: scopes(), words: tagIndex.words, tag: action === "add" || mode() === "prose" ? "" : list.only, mode: mode() });

  // ---- drawing --------------------------------------------------------------------------------------------------------

  function bare() {
    const all = used(), lacks = { caption: (one) => !one.caption, prose: (one) => !one.prose };
    return [mode() !== "prose" && { key: "\n", title: "no tags", lacks: lacks.caption, count: all.filter(lacks.caption).length }, mode() !== "tags" && { key: "\n\n", title: "no sentences", lacks: lacks.prose, count: all.filter(lacks.prose).length }].filter(Boolean);
  }
  function drawList() { clearTimeout(listTimer); listTimer = 0; tagIndex.sweep(); list.draw(bare(), info.trigger); }

  /** Choose anew which pictures are shown. */
  function refilter() {
    shownOf = pictures.all;
    bar.draw();
    grid.set(bar.shown());
    count.textContent = bar.active ? `${number(grid.rows.length)} of ${plural(used().length, "picture")}` : "";
    drawScope();
  }

  function draw() {
    if (state.step !== "tagging") return;
    drawToolbar();
    root.dataset.view = view;
    panes.hidden = view !== "pictures";
    other.hidden = view === "pictures";
    if (view !== "pictures") { tagIndex.sweep(); views.find((one) => one.name === view).draw(other); return; }
    refilter();
    clearTimeout(listTimer);
    listTimer = setTimeout(drawList, 30); // the pictures first: to read the tags of 10,000 takes longer than a frame
  }

  /** Captions changed. What is shown stays as it is until the filter changes, so that nothing goes away under one's hands. */
  function follow() {
    if (state.step !== "tagging") return;
    if (shownOf !== pictures.all || view !== "pictures") { draw(); return; }
    grid.draw();
    side.draw(grid.current, grid.selected);
    if (!listTimer) listTimer = setTimeout(drawList, 150);
  }

  /** From the other views: only these pictures, under a title. */
  function show(ids, title) { view = "pictures"; bar.only(ids, title); draw(); grid.choose(0); grid.node.focus(); }

  async function ask() {
    const project = state.project;
    if (!project) return;
    const found = await call("tagging.info", { project }, { quiet: true });
    if (project !== state.project) return;
    if (JSON.stringify(found) !== JSON.stringify(info)) { info = found; side.forget(); draw(); }
  }
  let learnt = "";
  async function learn() {
    if (learnt === state.project || !state.project) return;
    learnt = state.project;
    tagIndex.setVocabulary(await call("tagging.words", { project: learnt }, { quiet: true }));
  }

  // ---- copying, and keys of the other views ---------------------------------------------------------------------------

  const here = (event) => state.step === "tagging" && view === "pictures" && grid.current && mode() !== "prose" && !document.querySelector("dialog[open]") && !/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  document.addEventListener("copy", (event) => {
    if (!here(event) || String(getSelection())) return;
    event.preventDefault();
    event.clipboardData.setData("text/plain", side.copied());
    toast("Tags copied", { remedy: "Ctrl+V adds them to other pictures.", seconds: 2 });
  });
  document.addEventListener("paste", (event) => {
    if (!here(event)) return;
    const tags = split(event.clipboardData.getData("text/plain").slice(0, 20_000));
    if (tags.length) { event.preventDefault(); side.add(tags.slice(0, 100)); }
  });
  document.addEventListener("keydown", (event) => {
    if (state.step !== "tagging" || view === "pictures" || typing(event)) return;
    const shown = views.find((one) => one.name === view);
    if (shown.onKey && shown.onKey(event)) event.preventDefault();
  });
  root.addEventListener("ls:leave", () => grid.node.focus());

  window.addEventListener("ls:pictures", follow);
  window.addEventListener("ls:overview", () => { if (state.step === "tagging") ask().catch(() => {}); });
  window.addEventListener("ls:go", () => {
    if (state.step !== "tagging") return;
    if (pictures.project !== state.project) { info = NOTHING; bar.clear(); side.forget(); }
    draw();
    ask().catch(() => {});
    learn().catch(() => { learnt = ""; });
  });
  window.addEventListener("ls:next", (event) => { if (event.detail === "tagging") Promise.resolve(tagger.run()).catch(() => {}); });
  load().then(() => { draw(); return ask(); }).then(learn).catch(() => {});
  draw();
});
