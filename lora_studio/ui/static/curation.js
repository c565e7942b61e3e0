// Curation: every picture once, by keyboard. Flags and findings come from the judge; decisions can be undone.
import { bytes, button, call, confirm, fill, full, h, icon, number, part, plural, showing, state, toast } from "./core.js";
import { cropEditor } from "./crop.js";
import { createGrid, sizeButtons } from "./grid.js";
import { editPictures, load, pictures } from "./pictures.js";
import { undoLast } from "./shell.js";

const FILTERS = {
  all: ["All", () => true],
  flagged: ["Flagged", (image) => bad(image) && image.decision === "new"],
  undecided: ["Undecided", (image) => image.decision === "new"],
  keep: ["Kept", (image) => image.decision === "keep"],
  reject: ["Rejected", (image) => image.decision === "reject"],
};
const SHORT = { blurred: "blurred", duplicate: "double", near_duplicate: "double", too_small: "too small", aspect: "shape" };

const flags = (image) => pictures.flags[image.id] || [];
const bad = (image) => flags(image).some((flag) => flag.bad);

function flagBadge(flag) {
  const text = SHORT[flag.name] || flag.name.replaceAll("_", " ");
  return { text: text === "double" && flag.other ? `double of #${flag.other}` : text, level: flag.bad ? "warn" : "info", title: flag.text };
}
export function badges(image) {
  const shown = image.decision === "keep" ? [{ text: "kept", level: "good" }] : image.decision === "reject" ? [{ text: "rejected", level: "bad" }] : [];
  return [...shown, ...flags(image).map(flagBadge), ...(image.crop ? [{ text: "cropped", level: "info" }] : [])];
}

part("curation", (root) => {
  let filter = "all";
  let image = null;
  const count = () => Object.fromEntries(Object.entries(FILTERS).map(([name, [, test]]) => [name, pictures.all.filter(test).length]));

  async function decide(decision, ids = grid.selected) {
    if (!ids.length) return;
    const only = ids.length === 1;
    await editPictures("curation.decide", { ids, decision });
    if (only && decision !== "new" && filter !== "all") return; // it left the filter: the next one has moved up
    if (only && decision !== "new") grid.next();
  }
  const keys = { k: () => decide("keep"), r: () => decide("reject"), n: () => decide("new"), u: () => undoLast(), c: () => crop.focus() };
  const grid = createGrid({
    label: "Pictures to decide on",
    foot: (one) => `#${one.id}  ${one.name.split("/").pop()}`,
    badges,
    dim: (one) => one.decision === "reject",
    onCurrent: (one) => { const other = !image || !one || image.id !== one.id; image = one; inspector(other); },
    onSelect: () => drawActions(),
    onKey: (event) => { const run = keys[event.key.toLowerCase()]; if (run) run(); return Boolean(run); },
    empty: () => pictures.all.length
      ? h("div.ls-empty", null, icon("check", 30), h("h3", null, filter === "flagged" ? "Nothing flagged is left" : "No pictures here"), h("p", null, "Choose another filter above."))
      : h("div.ls-empty", null, icon("image", 30), h("h3", null, "No pictures yet"), h("p", null, "Gather some first: they appear here with what is wrong with them.")),
  });
  const crop = cropEditor({ onSave: (box) => editPictures("curation.crop", { id: image.id, box }), measure: (box) => call("curation.bucket", { project: state.project, id: image.id, box }, { quiet: true }) });

  const head = h("div.ls-toolbar");
  const actions = h("div.ls-row");
  const facts = h("div");
  const whole = h("section");
  const side = h("div.ls-side", null, crop.node, actions, facts, whole);
  fill(root, h("div.ls-panes", null, h("div.ls-pane", null, head, grid.node, h("div.ls-keys", null, [["K", "keep"], ["R", "reject"], ["U", "undo"], ["Enter", "enlarge"], ["Shift+arrows", "select"]].map(([key, text]) => h("span", null, h("kbd", null, key), " ", text)))), side));

  function drawHead() {
    const counts = count();
    const flagged = counts.flagged;
    fill(head, h("div.ls-segments", { role: "group", "aria-label": "Show" }, Object.entries(FILTERS).map(([name, [title]]) => h("button.ls-segment" + (name === filter ? ".current" : ""), { type: "button", "aria-pressed": String(name === filter), id: `ls-filter-${name}`, onclick: () => { filter = name; draw(); } }, title, h("span.count", null, number(counts[name]))))),
      h("div.ls-fill"), sizeButtons(grid),
      flagged > 0 && button(`Reject ${flagged} flagged`, async () => {
        const answer = await editPictures("curation.auto", {});
        toast(`${plural(answer.rejected.length, "picture")} rejected`, { remedy: "They stay in the project and can come back.", action: { text: "Undo", run: undoLast } });
      }, { id: "ls-reject-flagged" }));
  }

  function drawActions() {
    const ids = grid.selected;
    const many = ids.length > 1 ? ` ${ids.length}` : "";
    fill(actions, button(`Keep${many}`, () => decide("keep"), { icon: "check", disabled: !ids.length, title: "K" }), button(`Reject${many}`, () => decide("reject"), { icon: "close", disabled: !ids.length, title: "R" }),
      image && image.decision !== "new" && button("Neither", () => decide("new"), { kind: "quiet", title: "N" }));
  }

  function inspector(fresh) {
    drawActions();
    if (!image) { crop.show(null); fill(facts); return; }
    crop.show(image, fresh);
    fill(facts, h("div.ls-name", { title: image.name }, `#${image.id} ${image.name}`),
      h("div.ls-muted", null, `${image.width} × ${image.height} · ${bytes(image.size)}${image.source ? " · from " + image.source.split("/").pop() : ""}`),
      image.decision === "reject" && image.reason && h("div.ls-note.bad", null, `Rejected: ${image.reason}`),
      flags(image).map((flag) => h(`div.ls-note.${flag.bad ? "warn" : "info"}`, null, flag.text)),
      !flags(image).length && image.decision !== "reject" && h("div.ls-note.good", null, "Nothing wrong was found."));
  }

  function drawWhole() {
    if (!pictures.findings.length) { fill(whole); return; }
    fill(whole, h("h3", null, "The whole set"), pictures.findings.map((finding) => h("div", null, h(`div.ls-note.${finding.level}`, null, finding.text), finding.remedy && h("div.ls-muted.ls-remedy", null, finding.remedy))));
  }

  function draw() {
    if (state.step !== "curation") return;
    grid.set(pictures.all.filter(FILTERS[filter][1]));
    drawHead();
    drawWhole();
  }
  window.addEventListener("ls:pictures", draw);
  window.addEventListener("ls:go", draw);
  window.addEventListener("ls:next", (event) => { if (event.detail === "curation" && count().flagged) { filter = "flagged"; draw(); grid.choose(0); } });
  load().then(draw, () => {});
  draw();
});
