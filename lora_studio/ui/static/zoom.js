// Pictures that can be zoomed and moved; several that share one view move together.
import { h } from "./core.js";

const MOST = 16;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** One view, shared by its stages: `scale`, and the middle of the picture moved by x, y in shares of the stage. */
export function sharedView() {
  const stages = [];
  const view = { scale: 1, x: 0, y: 0 };
  function apply() {
    const far = (view.scale - 1) / 2;
    view.x = clamp(view.x, -far, far);
    view.y = clamp(view.y, -far, far);
    for (const { node, picture } of stages) {
      picture.style.transform = `translate(${100 * view.x}%,${100 * view.y}%) scale(${view.scale})`;
      node.classList.toggle("zoomed", view.scale > 1);
      node.dataset.scale = view.scale.toFixed(2);
    }
  }
  /** Zoom by a factor, keeping the point (x, y) of the stage, in shares from its middle, where it is. */
  function zoom(factor, x = 0, y = 0) {
    const scale = clamp(view.scale * factor, 1, MOST), real = scale / view.scale;
    Object.assign(view, { scale, x: x - (x - view.x) * real, y: y - (y - view.y) * real });
    apply();
  }
  const reset = () => { Object.assign(view, { scale: 1, x: 0, y: 0 }); apply(); };

  /** A place for a picture: {node, show(src, alt)}. Wheel zooms, dragging moves, a double click goes in or back out. */
  function stage() {
    const picture = h("img", { alt: "", draggable: "false" });
    const node = h("div.ls-stage", null, picture);
    const shares = (event) => { const area = node.getBoundingClientRect(); return [(event.clientX - area.left) / area.width - 0.5, (event.clientY - area.top) / area.height - 0.5]; };
    node.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 300), ...shares(event)); }, { passive: false });
    node.addEventListener("dblclick", (event) => { if (view.scale > 1) reset(); else zoom(3, ...shares(event)); });
    node.addEventListener("pointerdown", (event) => {
      if (event.button || view.scale === 1) return;
      event.preventDefault();
      node.setPointerCapture(event.pointerId);
      const start = { ...view }, area = node.getBoundingClientRect();
      const move = (now) => { view.x = start.x + (now.clientX - event.clientX) / area.width; view.y = start.y + (now.clientY - event.clientY) / area.height; apply(); };
      node.addEventListener("pointermove", move);
      node.addEventListener("pointerup", () => node.removeEventListener("pointermove", move), { once: true });
      node.addEventListener("pointercancel", () => node.removeEventListener("pointermove", move), { once: true });
    });
    stages.push({ node, picture });
    apply();
    return { node, show(src, alt) { if (picture.getAttribute("src") !== src) picture.src = src; picture.alt = alt; } };
  }

  /** Keys of a viewer: + and - zoom, 0 shows all of it. Whether it was one of them. */
  function onKey(event) {
    const run = { "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: reset }[event.key];
    if (run) { event.preventDefault(); run(); }
    return Boolean(run);
  }
  return { stage, zoom, reset, onKey };
}
