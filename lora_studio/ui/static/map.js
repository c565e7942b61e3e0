// "Map": like pictures near each other. What is selected on it can be decided on there; the list of groups does the same.
import { Failure, button, call, fill, go, h, icon, number, plural, state, thumb } from "./core.js";
import { keepFocus } from "./focus.js";
import { COLOURS, mapCanvas } from "./mapcanvas.js";
import { pictures } from "./pictures.js";
import { DECISIONS, flags, short } from "./words.js";

const TOOLS = { move: ["Move", "Drag moves, the wheel zooms; Shift and drag selects (V)"], rectangle: ["Rectangle", "Drag selects what lies within (E)"], lasso: ["Lasso", "Draw round the pictures (L)"] };
const BUTTONS = [["keep", "Keep", "K"], ["maybe", "Maybe", "M"], ["reject", "Reject", "R"]];
const LEGEND = [["new", "to decide", "●"], ["keep", "kept", "■"], ["maybe", "maybe", "▲"], ["reject", "rejected", "✕"]];
const SHOWN = 60;
const EDGE = 150;

/** {node, draw(), onKey(event)}; actions: decide(decision, ids), show(ids, title), open(id) */
export function mapView({ decide, show, open }) {
  let found = null, asked = null, project = "", selection = new Set(), points = [];
  const tip = h("div.ls-map-tip", { hidden: true });
  const canvas = mapCanvas({ selected: () => selection, onSelect: select, onHover: hover, onOpen: (point) => open(point.image.id) });
  const tools = h("div.ls-segments", { role: "group", "aria-label": "What dragging does" });
  const note = h("div.ls-map-note"), side = h("div.ls-side.ls-map-side"), legend = h("div.ls-map-legend"), empty = h("div.ls-map-empty");
  const stage = h("div.ls-map-stage", null, canvas.node, tip, empty,
    h("div.ls-map-tools", null, tools, button("+", () => canvas.zoom(1.6), { title: "Zoom in (+)", label: "Zoom in" }), button("−", () => canvas.zoom(1 / 1.6), { title: "Zoom out (−)", label: "Zoom out" }), button("All", () => canvas.fit(), { title: "Show all (0)" })), legend);
  const node = h("div.ls-map", null, h("div.ls-map-main", null, note, stage), side);

  // ---- selecting ------------------------------------------------------------------------------------------------------

  function select(ids, add = false) {
    const same = add && ids.length === 1 && selection.has(ids[0]);
    selection = new Set(add ? [...selection, ...ids] : ids);
    if (same) selection.delete(ids[0]);
    canvas.draw();
    drawSide();
  }
  const chosen = () => [...selection].filter((id) => pictures.byId.has(id));
  const decideOn = (decision) => { const ids = chosen(); if (ids.length) return decide(decision, ids); };

  function hover(point, x, y) {
    tip.hidden = !point;
    if (!point) return;
    const { image } = point;
    if (tip.dataset.id !== String(image.id)) {
      tip.dataset.id = image.id;
      const seen = [...new Set(flags(image).map((flag) => short(flag.name)))];
      fill(tip, h("img", { src: thumb(image), alt: "" }), h("div.ls-ellipsis", null, `#${image.id} ${image.name.split("/").pop()}`),
        h("div.ls-muted", null, [DECISIONS[image.decision].toLowerCase(), point.apart && "stands apart", ...seen.filter((text) => text !== "unlike the rest")].filter(Boolean).join(" · ")));
    }
    const area = stage.getBoundingClientRect();
    tip.style.left = `${x + 18 + EDGE > area.width ? x - EDGE - 18 : x + 18}px`;
    tip.style.top = `${Math.max(6, Math.min(y - 30, area.height - 215))}px`;
  }

  // ---- drawing --------------------------------------------------------------------------------------------------------

  const of = (cluster) => points.filter((point) => point.cluster === cluster).map((point) => point.image.id);

  function groupRow(id, dot, name, ids) {
    const all = ids.length > 0 && selection.size === ids.length && ids.every((one) => selection.has(one));
    return h("button.ls-map-group" + (all ? ".current" : ""), { type: "button", id, disabled: !ids.length, "aria-pressed": String(all), title: "Select these pictures", onclick: (event) => select(ids, event.shiftKey || event.ctrlKey || event.metaKey) },
      dot, h("span.ls-ellipsis", null, name), h("span.count", null, number(ids.length)));
  }

  function drawSide() {
    if (!found || !points.length) { fill(side); side.hidden = true; return; }
    side.hidden = false;
    const ids = chosen(), apart = points.filter((point) => point.apart).map((point) => point.image.id);
    const counts = Object.entries(DECISIONS).map(([decision, text]) => [text.toLowerCase(), ids.filter((id) => pictures.byId.get(id).decision === decision).length]).filter(([, count]) => count);
    keepFocus(side, () => fill(side,
      h("section", null, h("h2", null, "Groups"), h("div.ls-map-groups", { role: "group", "aria-label": "Groups of like pictures" },
        found.clusters.map(([number_, name]) => groupRow(`ls-cluster-${number_}`, h("span.ls-map-dot", { style: `background:${COLOURS[number_ % COLOURS.length]}` }), name, of(number_))),
        groupRow("ls-apart", h("span.ls-map-dot.ring"), "stand apart", apart))),
      h("section", null, h("h2", null, ids.length ? `${plural(ids.length, "picture")} selected` : "Nothing selected"),
        ids.length ? [
          h("div.ls-muted", null, counts.map(([text, count]) => `${number(count)} ${text}`).join(" · ")),
          h("div.ls-decide", { role: "group", "aria-label": "Decision" }, BUTTONS.map(([decision, text, key]) => {
            const on = ids.every((id) => pictures.byId.get(id).decision === decision);
            return h(`button.ls-decision.${decision}` + (on ? ".current" : ""), { type: "button", id: `ls-map-${decision}`, "aria-pressed": String(on), onclick: () => decideOn(on ? "new" : decision) }, text, h("kbd", null, key));
          })),
          h("div.ls-row", null, button("Show them in Pictures", () => show(ids, "selected on the map"), { icon: "image" }), button("Select none", () => select([]), { kind: "quiet", title: "Esc" })),
          h("div.ls-map-thumbs", null, ids.slice(0, SHOWN).map((id) => { const image = pictures.byId.get(id); return h("button", { type: "button", "data-decision": image.decision, title: `#${id} ${image.name}`, "aria-label": `Show #${id} ${image.name}`, onclick: () => open(id) }, h("img", { src: thumb(image), alt: "", loading: "lazy" })); })),
          ids.length > SHOWN && h("div.ls-faint", null, `and ${number(ids.length - SHOWN)} more`),
        ] : h("div.ls-muted", null, "Click a picture, draw round several, or choose a group. Shift adds to what is selected."))));
  }

  function drawNote() {
    const job = pictures.look && pictures.look.job, busy = Boolean(job || !pictures.look), without = found ? found.without : 0;
    const problem = found && (found.problem || (pictures.look && pictures.look.problem));
    const text = !found || !points.length || !without ? "" : `${plural(without, "picture")} ${without === 1 ? "is" : "are"} not on the map yet: ${busy ? "still to be looked at" : "not looked at"}.`;
    fill(note, text && h("div.ls-unknown", { role: "status" }, busy ? h("span.ls-spinner") : icon("warn", 15), h("div", null, text, problem ? ` ${problem}` : "")));
    empty.hidden = Boolean(found && points.length);
    if (empty.hidden) return;
    if (!pictures.loaded || !found) fill(empty, h("div.ls-empty", null, h("span.ls-spinner"), h("p", null, "Drawing the map")));
    else if (!pictures.all.length) fill(empty, h("div.ls-empty", null, icon("image", 30), h("h3", null, "No pictures yet"), button("Gather some", () => go(state.project, "gathering"))));
    else fill(empty, h("div.ls-empty", null, busy ? h("span.ls-spinner") : icon("warn", 30), h("h3", null, "Where each picture lies is not known yet"),
      h("p", null, problem || (busy ? "The auto-tagger is still looking at the pictures. The map appears when it is through." : "The auto-tagger has not looked at the pictures."))));
  }

  function draw() {
    if (project !== pictures.project) { project = pictures.project; found = null; asked = null; points = []; selection = new Set(); canvas.fit(); }
    fill(tools, Object.entries(TOOLS).map(([name, [text, title]]) => h("button.ls-segment" + (name === canvas.tool ? ".current" : ""), { type: "button", id: `ls-tool-${name}`, title, "aria-pressed": String(name === canvas.tool), onclick: () => use(name) }, text)));
    fill(legend, LEGEND.map(([name, text, sign]) => h(`span.${name}`, null, h("i", null, sign), text)), h("span", null, h("i.ring"), "stands apart"));
    if (pictures.loaded && pictures.audited) ask();
    place();
    drawNote();
    drawSide();
    canvas.draw();
  }
  function use(name) { canvas.tool = name; canvas.node.dataset.tool = name; draw(); }
  function place() {
    points = (found ? found.points : []).map(([id, x, y, cluster, apart]) => ({ image: pictures.byId.get(id), x, y, cluster, apart })).filter((point) => point.image);
    canvas.set(points);
  }

  /** The map anew when there are other pictures, or when they were looked at meanwhile. */
  async function ask() {
    const stamp = [pictures.project, pictures.all.length, pictures.look && (pictures.look.job ? "busy" : pictures.look.missing), pictures.all.length && pictures.all[pictures.all.length - 1].id].join("|");
    if (asked === stamp) return;
    asked = stamp;
    try {
      const answer = await call("curation.map", { project: state.project }, { quiet: true });
      if (asked !== stamp) return;
      found = answer;
      draw();
    } catch (error) { if (!(error instanceof Failure)) throw error; asked = null; }
  }

  function onKey(event) {
    if ((event.ctrlKey || event.metaKey) && event.key === "a") { select(points.map((point) => point.image.id)); return true; }
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const run = {
      "+": () => canvas.zoom(1.6), "=": () => canvas.zoom(1.6), "-": () => canvas.zoom(1 / 1.6), 0: () => canvas.fit(),
      ArrowLeft: () => canvas.move(60, 0), ArrowRight: () => canvas.move(-60, 0), ArrowUp: () => canvas.move(0, 60), ArrowDown: () => canvas.move(0, -60),
      k: () => decideOn("keep"), m: () => decideOn("maybe"), r: () => decideOn("reject"), n: () => decideOn("new"), v: () => use("move"), e: () => use("rectangle"), l: () => use("lasso"), Escape: () => select([]),
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (run) run();
    return Boolean(run);
  }
  return { node, draw, onKey };
}
