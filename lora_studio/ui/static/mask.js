// The mask of a picture: painted where it counts, on a canvas of the picture's size, saved as a grey PNG.
import { Failure, button, call, h, icon, refill, state } from "./core.js";
import { clamp, css, spanned } from "./frame.js";
import { maskSource } from "./trained.js";

const SIDE = 2048; // longest side of the canvas in pixels
const COLOUR = "#19c37d";
const KEPT_BYTES = 96 * 2 ** 20, STEPS = 30; // what may be kept to take strokes back
const SIZES = [2, 400];

/** {node, canvas, cursor, boxNode, begin(event, at), hover(event, at), onKey(event), dirty, png(), ready, draw()}; `scale()` is screen pixels for one of the picture. */
export function maskPanel(image, { scale, facts, change, onDraw }) {
  const shrink = Math.min(1, SIDE / Math.max(image.width, image.height));
  const canvas = h("canvas.ls-mask", { width: Math.max(1, Math.round(image.width * shrink)), height: Math.max(1, Math.round(image.height * shrink)) });
  const paper = canvas.getContext("2d", { willReadFrequently: true });
  const cursor = h("div.ls-brush", { hidden: true }), boxNode = h("div.ls-mask-box", { hidden: true });
  const node = h("div.ls-shape-panel");
  const most = clamp(Math.floor(KEPT_BYTES / (4 * canvas.width * canvas.height)), 3, STEPS);
  let tool = "paint", soft = false, size = Math.max(8, Math.round(Math.max(image.width, image.height) / 12)), opacity = 55;
  let done = [], undone = [], loaded = false, empty = true, looking = false, boxed = null;

  const area = () => paper.getImageData(0, 0, canvas.width, canvas.height);

  /** Remember what is there before it is changed. */
  function keep() { done.push(area()); if (done.length > most) { done.shift(); } undone = []; }
  function settled() { const data = area().data; empty = true; for (let index = 3; index < data.length; index += 4) if (data[index]) { empty = false; break; } draw(); }
  function back(from, to) { if (!from.length) return; to.push(area()); paper.putImageData(from.pop(), 0, 0); settled(); }
  const undo = () => back(done, undone), redo = () => back(undone, done);

  function all(paint) { keep(); paint(); settled(); }
  const fillAll = () => all(() => { paper.globalCompositeOperation = "source-over"; paper.fillStyle = COLOUR; paper.fillRect(0, 0, canvas.width, canvas.height); });
  const clear = () => all(() => paper.clearRect(0, 0, canvas.width, canvas.height));
  const invert = () => all(() => { paper.globalCompositeOperation = "xor"; paper.fillStyle = COLOUR; paper.fillRect(0, 0, canvas.width, canvas.height); paper.globalCompositeOperation = "source-over"; });

  // ---- strokes --------------------------------------------------------------------------------------------------------

  function dab(x, y) {
    const radius = (size * shrink) / 2;
    if (soft) {
      const shade = paper.createRadialGradient(x, y, 0, x, y, radius);
      shade.addColorStop(0, COLOUR + "ff");
      shade.addColorStop(0.35, COLOUR + "aa");
      shade.addColorStop(1, COLOUR + "00");
      paper.fillStyle = shade;
    } else { paper.fillStyle = COLOUR; }
    paper.beginPath();
    paper.arc(x, y, radius, 0, 2 * Math.PI);
    paper.fill();
  }
  function stroke(from, to) {
    paper.globalCompositeOperation = tool === "erase" ? "destination-out" : "source-over";
    const far = Math.hypot(to[0] - from[0], to[1] - from[1]), steps = Math.max(1, Math.ceil(far / Math.max(1, (size * shrink) / (soft ? 5 : 10))));
    for (let step = 1; step <= steps; step += 1) dab(from[0] + ((to[0] - from[0]) * step) / steps, from[1] + ((to[1] - from[1]) * step) / steps);
    paper.globalCompositeOperation = "source-over";
  }
  function begin(event, at) {
    if (looking) return { move() {}, end() {} };
    const where = ([x, y]) => [x * canvas.width, y * canvas.height];
    if (tool === "box") return outline(at);
    keep();
    let last = where(at);
    stroke(last, last);
    return {
      move(now, place) { const next = where(place); stroke(last, next); last = next; },
      end(cancelled) { if (cancelled) { paper.putImageData(done.pop(), 0, 0); } settled(); },
    };
  }

  // ---- the automatic mask ---------------------------------------------------------------------------------------------

  function outline(from) {
    const inside = (at) => at.map((value) => clamp(value, 0, 1));
    boxed = null;
    return {
      move(event, at) { boxed = spanned(inside(from), inside(at)); boxNode.hidden = false; boxNode.style.cssText = css(boxed); },
      end(cancelled) { if (cancelled || !boxed) { boxNode.hidden = true; return; } find(boxed); },
    };
  }
  async function find(box = null) {
    if (looking) return;
    looking = true;
    draw();
    try {
      const png = await call("curation.find_subject", { project: state.project, id: image.id, box });
      await put(`data:image/png;base64,${png}`);
      if (tool === "box") tool = "paint";
      settled();
    } catch (error) { if (!(error instanceof Failure)) throw error; } finally { looking = false; boxNode.hidden = true; draw(); }
  }

  /** Show a grey picture as the mask: its brightness becomes how much counts. */
  async function put(source, first = false) {
    const picture = new Image();
    picture.src = source;
    await picture.decode();
    if (!first) keep();
    paper.clearRect(0, 0, canvas.width, canvas.height);
    paper.drawImage(picture, 0, 0, canvas.width, canvas.height);
    const grey = area(), [red, green, blue] = [1, 3, 5].map((at) => parseInt(COLOUR.slice(at, at + 2), 16));
    for (let at = 0; at < grey.data.length; at += 4) {
      grey.data[at + 3] = grey.data[at];
      [grey.data[at], grey.data[at + 1], grey.data[at + 2]] = [red, green, blue];
    }
    paper.putImageData(grey, 0, 0);
  }

  /** The mask as base64 of an 8-bit grey PNG, null when nothing is painted. */
  async function png() {
    if (empty) return null;
    const { data } = area(), { width, height } = canvas;
    const rows = new Uint8Array((width + 1) * height); // each row after its filter's number: 0, none
    for (let y = 0; y < height; y += 1) for (let x = 0; x < width; x += 1) rows[y * (width + 1) + 1 + x] = data[4 * (y * width + x) + 3];
    const packed = new Uint8Array(await new Response(new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"))).arrayBuffer());
    const file = new Blob([new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]), chunk("IHDR", [...word(width), ...word(height), 8, 0, 0, 0, 0]), chunk("IDAT", packed), chunk("IEND", [])]);
    const text = await new Promise((resolve) => { const reader = new FileReader(); reader.onload = () => resolve(reader.result); reader.readAsDataURL(file); });
    return text.slice(text.indexOf(",") + 1);
  }

  // ---- the panel ------------------------------------------------------------------------------------------------------

  const segment = (name, text, key, on, run) => h("button.ls-segment" + (on ? ".current" : ""), { type: "button", id: `ls-tool-${name}`, "aria-pressed": String(on), title: key, onclick: run }, text);
  const slider = (id, text, value, [least, greatest], unit, run) => h("label.ls-slider", null, h("span", null, text), h("input", { type: "range", id, min: least, max: greatest, step: 1, value, oninput: (event) => { run(Number(event.target.value)); event.target.nextSibling.textContent = `${event.target.value} ${unit}`; } }), h("output", null, `${value} ${unit}`));
  const pick = (name) => { tool = name; draw(); };

  function counts() {
    const found = facts();
    if (!found) return null;
    if (empty) return h("div.ls-note.info", { id: "ls-mask-counts" }, "Nothing is painted: the whole picture is learned.");
    if (found.mask_outside === 1) {
      return h("div.ls-stack", null, h("div.ls-note.warn", { id: "ls-mask-counts" }, "Masks are switched off: what lies outside counts in full (weight outside masks is 1)."),
        h("div", null, button("Use masks in the training", () => change("objective.mask_outside", 0), { id: "ls-use-masks" })));
    }
    const much = found.mask_outside ? `the rest counts ${Math.round(100 * found.mask_outside)}%` : "the rest is left out";
    return h("div.ls-note.good", { id: "ls-mask-counts" }, `What is painted is learned, ${much}.`);
  }

  function draw() {
    canvas.style.opacity = opacity / 100;
    refill(node,
      h("div.ls-muted", null, "Paint over what shall be learned, e.g. the figure without its background."),
      h("div.ls-row", null, button(looking ? "Looking for the subject …" : "Find the subject", () => find(), { kind: "primary", icon: "search", disabled: looking, id: "ls-find-subject" }),
        h("button.ls-button" + (tool === "box" ? ".on" : ""), { type: "button", id: "ls-find-in-box", disabled: looking, "aria-pressed": String(tool === "box"), title: "Draw a box on the picture: the subject is looked for inside it", onclick: () => pick(tool === "box" ? "paint" : "box") }, icon("crop", 14), "In a box")),
      h("div.ls-row", null, h("div.ls-segments", { role: "group", "aria-label": "Tool" }, segment("paint", "Paint", "B", tool === "paint", () => pick("paint")), segment("erase", "Erase", "E", tool === "erase", () => pick("erase"))),
        h("div.ls-segments", { role: "group", "aria-label": "Edge of the brush" }, segment("hard", "Hard", "S", !soft, () => { soft = false; draw(); }), segment("soft", "Soft", "S", soft, () => { soft = true; draw(); }))),
      slider("ls-brush-size", "Brush", size, SIZES, "px", (value) => { size = value; }),
      slider("ls-mask-opacity", "Overlay", opacity, [10, 100], "%", (value) => { opacity = value; canvas.style.opacity = value / 100; }),
      h("div.ls-row", null, button("Fill", fillAll, { id: "ls-mask-fill" }), button("Invert", invert, { id: "ls-mask-invert", title: "I" }), button("Clear", clear, { id: "ls-mask-clear", disabled: empty }),
        button("Undo", undo, { icon: "undo", disabled: !done.length, title: "Take the last stroke back (Ctrl+Z)", id: "ls-mask-undo" })),
      counts());
    if (loaded) onDraw();
  }

  function grow(factor) { size = clamp(Math.round(size * factor), ...SIZES); draw(); }
  function onKey(event) {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") { if (event.shiftKey) redo(); else undo(); return true; }
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const run = { "[": () => grow(1 / 1.25), "]": () => grow(1.25), b: () => pick("paint"), e: () => pick("erase"), i: invert, s: () => { soft = !soft; draw(); } }[event.key.toLowerCase()];
    if (run) run();
    return Boolean(run);
  }
  function hover(event, at) {
    const seen = tool !== "box" && event.pointerType !== "touch" && at.every((value) => value > -0.2 && value < 1.2);
    const across = size * scale();
    cursor.hidden = !seen;
    if (seen) cursor.style.cssText = `left:${100 * at[0]}%;top:${100 * at[1]}%;width:${across}px;height:${across}px`;
  }

  /** Load what is saved; without a mask, begin empty. */
  const ready = (async () => { await (image.mask ? put(maskSource(image), true) : null); loaded = true; settled(); })();
  draw();
  return { node, canvas, cursor, boxNode, begin, hover, onKey, png, ready, draw, get dirty() { return loaded && done.length > 0 && !(empty && !image.mask); }, get looking() { return looking; } };
}

// ---- a PNG by hand: the canvas itself only makes coloured ones ------------------------------------------------------------

const word = (value) => [24, 16, 8, 0].map((shift) => (value >>> shift) & 255);
const TABLE = Uint32Array.from({ length: 256 }, (_, index) => { let value = index; for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1; return value >>> 0; });

/** Length, name, content and its CRC-32 (PNG specification, 5.3 and annex D). */
function chunk(name, content) {
  const bytes = new Uint8Array(12 + content.length);
  bytes.set(word(content.length), 0);
  bytes.set([...name].map((letter) => letter.charCodeAt(0)), 4);
  bytes.set(content, 8);
  let sum = 0xffffffff;
  for (const one of bytes.subarray(4, 8 + content.length)) sum = TABLE[(sum ^ one) & 255] ^ (sum >>> 8);
  bytes.set(word(~sum >>> 0), 8 + content.length);
  return bytes;
}
