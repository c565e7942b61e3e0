// Curation: every picture once, by keyboard; and the set as a whole. Suggestions come from the judge; all can be undone.
import { call, fill, h, icon, number, part, plural, poll, state, toast } from "./core.js";
import { compare } from "./compare.js";
import { setViews } from "./curationset.js";
import { filterBar } from "./filterbar.js";
import { createGrid, sizeButtons } from "./grid.js";
import { inspector } from "./inspector.js";
import { audit, editPictures, load, pictures, proposal } from "./pictures.js";
import { redoLast, undoLast } from "./shell.js";
import { badges, flags } from "./words.js";

const VIEWS = { pictures: "Pictures", set: "The set", copies: "Copies", map: "Map" };
const KEYS = [["K", "keep"], ["M", "maybe"], ["R", "reject"], ["A", "as suggested"], ["U", "undo"], ["E", "crop and mask"], ["Z", "enlarge"], ["X", "compare"], ["/", "filter"], ["?", "all keys"]];

part("curation", (root) => {
  let view = "pictures";
  const grid = createGrid({
    label: "Pictures to decide on",
    foot: (one) => `#${one.id}  ${one.name.split("/").pop()}`,
    badges,
    suggest: proposal,
    dim: (one) => one.decision === "reject",
    onCurrent: () => side.draw(grid.current, grid.selected),
    onKey: (event) => {
      const run = event.key === "U" ? redoLast : keys[event.key.toLowerCase()];
      if (run) run();
      return Boolean(run);
    },
    empty,
  });
  const bar = filterBar({ onChange: draw, focusGrid: () => grid.node.focus() });
  const side = inspector({ decide, accept, compare: compareTwo, show: open, only: show });
  const sets = setViews({ show, open, decide, undo });
  const keys = {
    k: () => decide("keep"), m: () => decide("maybe"), r: () => decide("reject"), n: () => decide("new"), a: () => accept(grid.selected),
    u: undo, c: () => side.editShape(), e: () => side.openShape(), z: () => grid.enlarge(), x: () => compareTwo(), "/": () => bar.focus(),
  };

  const switcher = h("div.ls-segments", { role: "group", "aria-label": "View" });
  const look = h("div.ls-look", { "aria-live": "off" });
  const suggestions = h("div.ls-suggestions");
  const panes = h("div.ls-panes", null,
    h("div.ls-pane", null, bar.node, h("div.ls-found-line", null, bar.chips, suggestions), grid.node, h("div.ls-keys", null, KEYS.map(([key, text]) => h("span", null, h("kbd", null, key), " ", text)))), side.node);
  fill(root, h("div.ls-curation", null, h("div.ls-toolbar.ls-views", null, switcher, look, h("div.ls-fill"), bar.sort, sizeButtons(grid)), panes, sets.node));

  // ---- decisions ------------------------------------------------------------------------------------------------------

  /** Decide on pictures: shown at once, saved behind it. A single one that stays in the list makes way for the next. */
  function decide(decision, ids = grid.selected) {
    if (!ids.length) return;
    const saved = editPictures("curation.decide", { ids, decision }, null, { ids, values: { decision, reason: "" } });
    onward(ids, decision);
    return saved.then(bar.again, () => {});
  }

  /** Do as suggested with these, or with all that are shown. */
  async function accept(ids) {
    const wanted = ids.filter((id) => proposal(pictures.byId.get(id)));
    if (!wanted.length) { if (ids.length === 1) onward(ids, "keep"); return; }
    const first = pictures.proposals[wanted[0]];
    const ahead = wanted.length === 1 ? { ids: wanted, values: { decision: first.decision, reason: first.reason } } : null;
    const saved = editPictures("curation.accept", { ids: wanted }, null, ahead);
    onward(wanted, first.decision);
    await saved;
    bar.again();
    if (wanted.length > 1) toast(`${plural(wanted.length, "suggestion")} accepted`, { remedy: "Rejected pictures stay in the project and can come back.", action: { text: "Undo", run: undo } });
  }

  function onward(ids, decision) {
    const single = ids.length === 1 && grid.current && grid.current.id === ids[0];
    if (single && decision !== "new") grid.next();
  }

  /** Take back the last step and show what it was about. */
  async function undo() {
    const before = new Map(pictures.all.map((image) => [image.id, image.decision]));
    await undoLast();
    await load(true);
    bar.again();
    const back = pictures.all.find((image) => before.get(image.id) !== image.decision);
    const place = back ? grid.place(back.id) : undefined;
    if (place !== undefined) grid.choose(place);
  }

  /** Two pictures side by side: the two selected, else this one and the one that it resembles, else the next one. */
  function compareTwo(first = grid.current, second = null) {
    if (!first) return;
    const chosen = grid.selected;
    if (!second && chosen.length === 2) [first, second] = chosen.map((id) => pictures.byId.get(id));
    const other = flags(first).find((flag) => flag.other && pictures.byId.has(flag.other));
    second = second || (other ? pictures.byId.get(other.other) : grid.rows[(grid.place(first.id) + 1) % grid.rows.length]);
    if (second && second.id !== first.id) return compare(first, second);
  }

  // ---- drawing --------------------------------------------------------------------------------------------------------

  function empty() {
    if (!pictures.loaded) return h("div.ls-empty", null, h("span.ls-spinner"), h("p", null, "Reading the pictures"));
    if (!pictures.all.length) return h("div.ls-empty", null, icon("image", 30), h("h3", null, "No pictures yet"), h("p", null, "Gather some first: they appear here with what is wrong with them."));
    return bar.empty();
  }

  function drawSuggestions() {
    const open = grid.rows.filter(proposal);
    if (!open.length) { fill(suggestions); return; }
    const count = (decision) => open.filter((image) => proposal(image).decision === decision).length;
    const kinds = ["keep", "maybe", "reject"].filter(count);
    fill(suggestions, icon("bulb", 15), h("b", null, "Suggested"),
      kinds.map((decision) => h("button.ls-filter." + decision, { type: "button", title: "Show only these", onclick: () => bar.choose(`suggest:${decision}`) }, `${decision} ${number(count(decision))}`)),
      h("button.ls-button.small", { type: "button", id: "ls-accept-all", title: "One step, which Undo takes back", onclick: () => accept(open.map((image) => image.id)).catch(() => {}) }, open.length === 1 ? "Accept it" : `Accept all ${number(open.length)}`));
  }

  function drawLook() {
    const found = pictures.look;
    const job = found && found.job;
    if (job) {
      fill(look, h("span.ls-spinner"), h("span", null, job.state === "queued" ? "Waiting to look at the pictures" : job.total ? `Looking at ${number(job.done)} of ${plural(job.total, "picture")}` : "Looking at the pictures"));
    } else if (found && found.problem) {
      fill(look, icon("warn", 14), h("span.ls-warn", { title: `${found.problem} ${found.remedy}` }, `Looking at the pictures ended early: ${found.problem}`),
        h("button.ls-link", { type: "button", onclick: async () => { pictures.look = await call("curation.look_again", { project: state.project }); drawLook(); } }, "Try again"));
    } else { fill(look); }
  }

  function draw() {
    if (state.step !== "curation") return;
    fill(switcher, Object.entries(VIEWS).map(([name, title]) => h("button.ls-segment" + (name === view ? ".current" : ""), { type: "button", id: `ls-view-${name}`, "aria-pressed": String(name === view), onclick: () => { view = name; draw(); } }, title)));
    panes.hidden = view !== "pictures";
    sets.node.hidden = view === "pictures";
    root.dataset.view = view;
    drawLook();
    if (view !== "pictures") { sets.draw(view); return; }
    bar.draw();
    grid.set(bar.shown());
    drawSuggestions();
  }

  /** From the views of the whole set: only these pictures, under a title; or one picture among all. */
  function show(ids, title) { view = "pictures"; bar.only(ids, title); grid.choose(0); grid.node.focus(); }
  function open(id) {
    view = "pictures";
    draw();
    if (grid.place(id) === undefined) { bar.clear(); }
    grid.choose(grid.place(id));
    grid.node.focus();
  }

  // ---- looking --------------------------------------------------------------------------------------------------------

  /** Start to look at what was not looked at yet, and follow it. */
  async function follow() {
    if (state.step !== "curation" || !pictures.loaded || pictures.project !== state.project) return;
    const before = pictures.look;
    if (before && !before.job && (!before.missing || before.problem || before.state === "stopped")) return;
    const project = state.project;
    const found = await call("curation.look", { project }, { quiet: true });
    if (project !== pictures.project) return;
    pictures.look = found;
    drawLook();
    if (view !== "pictures") sets.draw(view);
    if (before && before.job && !found.job) await audit();
  }

  window.addEventListener("ls:pictures", draw);
  window.addEventListener("ls:go", () => { if (pictures.project !== state.project) bar.clear(); draw(); });
  window.addEventListener("ls:next", (event) => { if (event.detail === "curation") { view = "pictures"; bar.decision("new"); grid.choose(0); grid.node.focus(); } });
  poll(root, 1.5, follow);
  load().then(draw, () => {});
  draw();
});
