// The picture with a crop rectangle over it: drag a corner, an edge or the middle; ratios; what the training makes of it.
import { button, fill, full, h } from "./core.js";

const RATIOS = { Free: 0, "1:1": 1, "4:5": 4 / 5, "3:4": 3 / 4, "4:3": 4 / 3, "16:9": 16 / 9 };
const WHOLE = [0, 0, 1, 1];
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const same = (a, b) => a.every((value, index) => Math.abs(value - b[index]) < 1e-4);

/** options: onSave(box or null) -> promise, measure(box) -> {width, height, bucket_width, bucket_height} */
export function cropEditor({ onSave, measure }) {
  let image = null, box = WHOLE, ratio = "Free", asked = 0;
  const picture = h("img.ls-crop-picture", { alt: "", draggable: "false" });
  const frame = h("div.ls-crop-frame", { tabindex: "0", role: "group", "aria-label": "Crop: arrows move, Shift+arrows resize, Enter saves, Escape resets" },
    ["nw", "n", "ne", "e", "se", "s", "sw", "w"].map((side) => h(`span.ls-crop-handle.${side}`, { "data-side": side })));
  const stage = h("div.ls-crop-stage", null, picture, frame);
  const line = h("div.ls-crop-line");
  const tools = h("div.ls-crop-tools");
  const node = h("div.ls-crop", null, stage, line, tools);

  const saved = () => (image && image.crop ? image.crop : WHOLE);
  async function draw() {
    frame.style.cssText = `left:${100 * box[0]}%;top:${100 * box[1]}%;width:${100 * (box[2] - box[0])}%;height:${100 * (box[3] - box[1])}%`;
    frame.classList.toggle("whole", same(box, WHOLE));
    fill(tools, h("div.ls-segments", { role: "group", "aria-label": "Shape of the crop" }, Object.keys(RATIOS).map((name) => h("button.ls-segment" + (name === ratio ? ".current" : ""), { type: "button", "aria-pressed": String(name === ratio), onclick: () => { ratio = name; if (RATIOS[name]) fit(RATIOS[name]); draw(); } }, name))),
      !same(box, saved()) && h("div.ls-row", null, button("Save crop", save, { kind: "primary" }), button("Cancel", () => { box = saved(); ratio = "Free"; draw(); }, { kind: "quiet" })),
      same(box, saved()) && image && image.crop && button("Whole picture", async () => { box = WHOLE; await save(); }, { kind: "quiet" }));
    const mine = ++asked;
    if (!image) return;
    try {
      const found = await measure(same(box, WHOLE) ? null : box);
      if (mine === asked) fill(line, h("span", null, `${found.width} × ${found.height}`), h("span.ls-muted", null, "trained as"), h("span.ls-chip", null, `${found.bucket_width} × ${found.bucket_height}`));
    } catch { if (mine === asked) fill(line); }
  }
  async function save() { await onSave(same(box, WHOLE) ? null : box); draw(); }

  /** The largest rectangle of that shape around the middle of the present one. */
  function fit(shape) {
    const share = (shape * image.height) / image.width; // width : height in shares
    const width = Math.min(1, share), height = width / share;
    const x = clamp((box[0] + box[2]) / 2 - width / 2, 0, 1 - width), y = clamp((box[1] + box[3]) / 2 - height / 2, 0, 1 - height);
    box = [x, y, x + width, y + height];
  }

  function resize(start, side, dx, dy) {
    let [left, top, right, bottom] = start;
    const least = 0.05;
    if (side === "") {
      const x = clamp(dx, -left, 1 - right), y = clamp(dy, -top, 1 - bottom);
      return [left + x, top + y, right + x, bottom + y];
    }
    if (side.includes("w")) left = clamp(left + dx, 0, right - least);
    if (side.includes("e")) right = clamp(right + dx, left + least, 1);
    if (side.includes("n")) top = clamp(top + dy, 0, bottom - least);
    if (side.includes("s")) bottom = clamp(bottom + dy, top + least, 1);
    const shape = RATIOS[ratio];
    if (shape) {
      const share = (shape * image.height) / image.width;
      let width = side === "n" || side === "s" ? (bottom - top) * share : right - left;
      const room = Math.min(side.includes("w") ? start[2] : 1 - left, (side.includes("n") ? start[3] : 1 - top) * share);
      width = Math.min(width, room);
      const height = width / share;
      if (side.includes("w")) left = right - width; else right = left + width;
      if (side.includes("n")) top = bottom - height; else bottom = top + height;
    }
    return [left, top, right, bottom];
  }

  frame.addEventListener("pointerdown", (event) => {
    if (!image || event.button) return;
    event.preventDefault();
    frame.focus();
    frame.setPointerCapture(event.pointerId);
    const side = event.target.dataset.side || "", start = box, area = stage.getBoundingClientRect();
    const move = (now) => { box = resize(start, side, (now.clientX - event.clientX) / area.width, (now.clientY - event.clientY) / area.height); draw(); };
    frame.addEventListener("pointermove", move);
    frame.addEventListener("pointerup", () => frame.removeEventListener("pointermove", move), { once: true });
  });
  frame.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-0.01, 0], ArrowRight: [0.01, 0], ArrowUp: [0, -0.01], ArrowDown: [0, 0.01] }[event.key];
    if (step) { event.preventDefault(); event.stopPropagation(); box = resize(box, event.shiftKey ? "se" : "", ...step); draw(); }
    if (event.key === "Enter") { event.preventDefault(); event.stopPropagation(); save().catch(() => {}); }
    if (event.key === "Escape") { event.stopPropagation(); box = saved(); draw(); frame.blur(); }
  });

  return {
    node,
    focus: () => frame.focus(),
    /** Show a picture; `fresh` when it is another one than before (else an unsaved rectangle stays). */
    show(next, fresh = true) {
      image = next;
      node.hidden = !image;
      if (!image) return;
      const source = full(image);
      if (picture.getAttribute("src") !== source) picture.src = source;
      picture.alt = image.name;
      stage.style.aspectRatio = `${image.width} / ${image.height}`;
      stage.style.width = `min(100%, ${Math.round((260 * image.width) / image.height)}px)`;
      if (fresh || same(box, saved())) { box = saved(); ratio = "Free"; }
      draw();
    },
  };
}
