// How long a caption is for each text encoder of the base, and where exactly it is cut.
import { call, fill, h, icon, state } from "./core.js";

const SHOWN = 70; // letters of what is read, before the cut

/** {node, show(caption, prose), kept}: `kept` is how much of the text every encoder reads, null for all; onCut() when it changed. */
export function tokenMeter({ onCut }) {
  const node = h("div.ls-length", { role: "status", "aria-label": "Length for the text encoders", hidden: true });
  const known = new Map();
  let wanted = "", timer = 0, cut = null;

  function draw(found) {
    node.hidden = !found || !found.encoders.length;
    const before = cut;
    cut = null;
    if (!node.hidden) {
      const shortest = Math.min(...found.encoders.map((one) => one.kept));
      if (shortest < found.text.length) cut = shortest;
      fill(node, h("div.ls-length-bars", null, found.encoders.map((one) => {
        const over = one.count > one.limit;
        return h("div.ls-encoder" + (over ? ".over" : ""), { title: over ? `${one.count - one.limit} tokens too many: they are not read` : `Room for ${one.limit - one.count} more tokens` },
          h("span", null, one.name), h("span.ls-bar", null, h("span", { style: `width:${Math.min(100, (100 * one.count) / one.limit)}%` })), h("b", null, `${one.count} / ${one.limit}`));
      })), cut !== null && h("div.ls-cutline", { id: "ls-cut" }, h("span", null, (cut > SHOWN ? "…" : "") + found.text.slice(Math.max(0, cut - SHOWN), cut)), icon("cut", 12), h("del", null, found.text.slice(cut))));
    }
    if (before !== cut) onCut();
  }
  async function ask(caption, prose, key) {
    const project = state.project;
    const found = await call("tagging.tokens", { project, caption, prose }, { quiet: true }).catch(() => null);
    if (known.size > 500) known.clear();
    if (found) known.set(key, found);
    if (key === wanted && project === state.project) draw(found);
  }
  return {
    node,
    get cut() { return cut; },
    show(caption, prose) {
      const key = `${state.project}\n${caption}\n\n${prose}`;
      if (key === wanted) return;
      wanted = key;
      clearTimeout(timer);
      if (!caption && !prose) { draw(null); return; }
      if (known.has(key)) { draw(known.get(key)); return; }
      timer = setTimeout(() => ask(caption, prose, key), 90);
    },
    forget() { known.clear(); wanted = ""; },
  };
}
