// Beside the grid: the current picture with what was found, the decision, where it is from; or what is selected.
import { bytes, button, fill, h, icon, number, plural } from "./core.js";
import { pictures, proposal } from "./pictures.js";
import { provenance } from "./provenance.js";
import { shapeEditor } from "./shape.js";
import { DECISIONS, flags } from "./words.js";

const BUTTONS = [["keep", "Keep", "K"], ["maybe", "Maybe", "M"], ["reject", "Reject", "R"]];
const digits = (value) => (Math.abs(value) >= 100 ? number(Math.round(value)) : String(Number(value.toPrecision(2))));

/** {node, draw(image or null, ids), editShape()}; `actions`: decide(decision), accept(ids), compare(a, b), show(id), only(ids, title) */
export function inspector(actions) {
  const shape = shapeEditor({ show: actions.only });
  const origin = provenance();
  const title = h("div"), decisions = h("div.ls-decide", { role: "group", "aria-label": "Decision" }), found = h("div.ls-stack.ls-found");
  const node = h("div.ls-side.ls-inspect", null, shape.node, title, decisions, found, origin.node);
  let empty = null, edited = "", inEditor = 0, timer = 0;

  /** Give the editor the picture when it or its shape changed; not every one that the keys pass, for it asks the studio. */
  function showShape(image) {
    const now = image ? JSON.stringify([image.id, image.v, image.crop, image.more_crops, image.mask]) : "";
    if (now === edited) return;
    edited = now;
    clearTimeout(timer);
    if (!image) { inEditor = 0; shape.show(null); return; }
    timer = setTimeout(() => { const fresh = inEditor !== image.id; inEditor = image.id; shape.show(image, fresh); }, 100);
  }

  function drawDecisions(ids) {
    const chosen = ids.map((id) => pictures.byId.get(id));
    fill(decisions, BUTTONS.map(([decision, text, key]) => {
      const on = chosen.length > 0 && chosen.every((image) => image.decision === decision);
      return h(`button.ls-decision.${decision}` + (on ? ".current" : ""), { type: "button", id: `ls-decide-${decision}`, "aria-pressed": String(on), disabled: !ids.length, title: on ? "Take the decision back (N)" : "", onclick: () => actions.decide(on ? "new" : decision) }, text, h("kbd", null, key));
    }));
  }

  /** The suggestion; its reason only where no flag below says it. */
  function suggestion(image, flagged) {
    const suggested = proposal(image);
    if (!suggested) return null;
    return h(`div.ls-suggested.${suggested.decision}`, null, icon("bulb", 15),
      h("div", null, h("b", null, `Suggested: ${suggested.decision}`), suggested.reason && !flagged && h("div.ls-muted", null, suggested.reason)),
      h("button.ls-button.small", { type: "button", id: "ls-accept", title: "A", onclick: () => actions.accept([image.id]) }, "Accept ", h("kbd", null, "A")));
  }

  function flagLine(image, flag) {
    const other = flag.other && pictures.byId.get(flag.other);
    const measured = flag.value !== null && flag.value !== undefined && flag.threshold !== null && flag.threshold !== undefined;
    return h("div", null, h(`div.ls-note.${flag.bad ? "warn" : "info"}`, null, h("span", null, flag.text)),
      measured && h("div.ls-measured", null, "measured ", h("b", null, digits(flag.value)), ", the limit is ", h("b", null, digits(flag.threshold))),
      other && h("div.ls-measured", null, h("button.ls-link", { type: "button", onclick: () => actions.compare(image, other) }, "Compare"), h("button.ls-link", { type: "button", onclick: () => actions.show(other.id) }, `Show #${other.id}`)));
  }

  function drawOne(image) {
    showShape(image);
    fill(title, h("div.ls-name", { title: image.name }, `#${image.id} ${image.name}`), h("div.ls-muted", null, `${image.width} × ${image.height} · ${bytes(image.size)}`));
    const seen = flags(image);
    fill(found, suggestion(image, seen.length > 0), image.decision !== "new" && image.reason && h(`div.ls-note.${image.decision === "reject" ? "bad" : "info"}`, null, `${DECISIONS[image.decision]}: ${image.reason}`),
      seen.map((flag) => flagLine(image, flag)),
      pictures.audited && !seen.length && !proposal(image) && image.decision !== "reject" && h("div.ls-note.good", null, pictures.look && pictures.look.missing !== 0 ? "Nothing wrong was found so far." : "Nothing wrong was found."));
  }

  function drawMany(ids) {
    showShape(null);
    const chosen = ids.map((id) => pictures.byId.get(id));
    const counts = Object.entries(DECISIONS).map(([decision, text]) => [text.toLowerCase(), chosen.filter((image) => image.decision === decision).length]).filter(([, count]) => count);
    const open = chosen.filter(proposal).map((image) => image.id);
    fill(title, h("div.ls-name", null, plural(ids.length, "picture") + " selected"), h("div.ls-muted", null, counts.map(([text, count]) => `${number(count)} ${text}`).join(" · ")));
    fill(found, h("div.ls-row", null, ids.length === 2 && button("Compare", () => actions.compare(chosen[0], chosen[1]), { title: "X" }),
      open.length > 0 && button(`Accept ${plural(open.length, "suggestion")}`, () => actions.accept(open), { title: "A", icon: "bulb" })));
  }

  return {
    node,
    editShape: () => shape.focus(),
    openShape: () => shape.open(),
    draw(image, ids) {
      if (!image !== empty) { empty = !image; for (const part of [title, decisions, found, origin.node]) part.hidden = empty; }
      if (!image) { showShape(null); return; }
      drawDecisions(ids);
      if (ids.length > 1) drawMany(ids); else drawOne(image);
      origin.show(ids);
    },
  };
}
