// The shape of one picture, over the whole page: its crops, its mask, and what is trained of it. Nothing changes until Save.
import { Failure, button, call, confirm, fill, full, h, icon, plural, refill, state, toast } from "./core.js";
import { WHOLE, clamp, cropFrame, css, fitted, isWhole, same } from "./frame.js";
import { maskPanel } from "./mask.js";
import { editPictures } from "./pictures.js";
import { pictureSheet } from "./sheet.js";
import { deadArea, fate, trainedPanel } from "./trained.js";

const MODES = { crop: "Crops", mask: "Mask", trained: "What is trained" };
const HINTS = {
  crop: [["arrows", "move"], ["Shift", "resize"], ["Ctrl", "by one pixel"], ["N", "next crop"], ["A", "add"], ["Del", "remove"], ["Ctrl+Z", "undo"]],
  mask: [["[ ]", "brush size"], ["B E", "paint, erase"], ["S", "soft or hard"], ["I", "invert"], ["Ctrl+Z", "undo stroke"]],
  trained: [["N", "next crop"], ["+ − 0", "zoom"]],
};
const EDGES = [["Left", "x"], ["Top", "y"], ["Width", "w"], ["Height", "h"]];
const plain = (box) => (isWhole(box) ? null : box);

/** Edit a picture's crops and mask; resolves when closed. `show(ids, title)` fills the grid with pictures of one shape. */
export function shapeDialog(image, { mode = "crop", show }) {
  const start = [image.crop, ...image.more_crops].map((box) => box || WHOLE);
  let boxes = start, chosen = 0, aspect = "Free", history = [], parts = [], found = null, asked = 0, saving = false;

  return new Promise((resolve) => {
    const node = h("dialog.ls-shape", { tabindex: "-1", "aria-label": `Crops and mask of ${image.name}` });
    const overlay = h("div.ls-sheet-over"), side = h("div.ls-shape-side"), list = h("div.ls-shape-panel"), head = h("div.ls-shape-head"), foot = h("div.ls-shape-foot");
    const sheet = pictureSheet(image, full(image), {
      start: (event, at) => (mode === "mask" ? mask.begin(event, at) : null),
      hover: (event, at) => { if (mode === "mask") mask.hover(event, at); },
    });
    const frame = cropFrame({
      label: "Crop: arrows move, Shift+arrows resize", image: () => image, box: () => boxes[chosen], shape: shape,
      onMove: (box) => { if (!moving) { remember(); moving = true; } boxes = boxes.map((old, index) => (index === chosen ? box : old)); drawFrames(); drawNumbers(); },
      onDone: () => { moving = false; later(); },
    });
    let moving = false, timer = 0;
    const context = { facts: () => found, change };
    const mask = maskPanel(image, { ...context, scale: () => sheet.shown, onDraw: () => { if (mode === "mask") drawFoot(); } });
    const trained = trainedPanel(image, { ...context, show: async (ids, title) => { if (await leave()) show(ids, title); } });
    sheet.layer.append(overlay, mask.canvas, mask.boxNode, mask.cursor, frame.node);

    // ---- crops --------------------------------------------------------------------------------------------------------

    function shape() {
      if (aspect === "Free") return 0;
      if (aspect === "Original") return image.width / image.height;
      const [width, height] = aspect.split(":").map(Number);
      return width / height;
    }
    const remember = () => { history.push([boxes, chosen]); };
    /** Change the crops; `which` is chosen afterwards. */
    function set(next, which = chosen) { remember(); boxes = next; chosen = clamp(which, 0, boxes.length - 1); draw(); later(); }
    const setBox = (box) => set(boxes.map((old, index) => (index === chosen ? box : old)));
    function undo() { if (history.length) { [boxes, chosen] = history.pop(); draw(); later(); } }
    const choose = (index) => { chosen = (index + boxes.length) % boxes.length; draw(); };
    function add() {
      const near = 0.06 * (boxes.length % 5);
      const box = shape() ? fitted(image, shape(), WHOLE) : WHOLE;
      const width = 0.6 * (box[2] - box[0]), height = 0.6 * (box[3] - box[1]);
      const left = clamp(0.2 + near, 0, 1 - width), top = clamp(0.2 + near, 0, 1 - height);
      set([...boxes, [left, top, left + width, top + height]], boxes.length);
    }
    const remove = (index) => (boxes.length > 1 ? set(boxes.filter((_, other) => other !== index), index < chosen ? chosen - 1 : chosen) : set([WHOLE], 0));
    async function to(what) { setBox(await call("curation.crop_to", { project: state.project, id: image.id, to: what })); aspect = "Free"; drawList(); }
    const dirtyCrops = () => boxes.length !== start.length || boxes.some((box, index) => !same(box, start[index]));

    /** Ask what the training makes of the crops, once they rest. */
    function later() { clearTimeout(timer); timer = setTimeout(measure, 150); drawFoot(); }
    async function measure() {
      const mine = ++asked;
      const told = await call("curation.preview", { project: state.project, id: image.id, boxes: boxes.map(plain) }, { quiet: true }).catch((error) => { if (error instanceof Failure) return []; throw error; });
      if (mine === asked && node.isConnected) { parts = told; draw(); }
    }
    async function change(setting, value) { found = await call("curation.change", { project: state.project, setting, value }); draw(); mask.draw(); }

    // ---- drawing ------------------------------------------------------------------------------------------------------

    const partOf = (index) => parts.find((part) => part.crop === index);
    function drawFrames() {
      frame.node.hidden = mode !== "crop";
      frame.draw();
      const part = partOf(chosen);
      fill(overlay, mode === "trained" && !isWhole(boxes[chosen]) && h("div.ls-veil", { style: deadArea(WHOLE, boxes[chosen]) }),
        mode !== "mask" && boxes.map((box, index) => index !== chosen && h("button.ls-crop-other", { type: "button", tabindex: "-1", style: css(box), title: `Crop ${index + 1}`, onpointerdown: (event) => { event.stopPropagation(); choose(index); } }, h("span", null, String(index + 1)))),
        mode === "trained" && part && h("div.ls-lost", { style: `${css(boxes[chosen])};${deadArea(boxes[chosen], part.view)}` }),
        mode === "trained" && part && h("div.ls-kept", { style: css(part.view) }));
    }

    function drawNumbers() {
      const [left, top, right, bottom] = boxes[chosen], { width, height } = image;
      const values = { x: left * width, y: top * height, w: (right - left) * width, h: (bottom - top) * height };
      for (const input of list.querySelectorAll("input[data-edge]")) if (document.activeElement !== input) input.value = Math.round(values[input.dataset.edge]);
    }
    /** Exact numbers, in pixels of the picture. */
    function typed() {
      const value = Object.fromEntries([...list.querySelectorAll("input[data-edge]")].map((input) => [input.dataset.edge, Math.round(Number(input.value)) || 0]));
      const w = clamp(value.w, 1, image.width), high = clamp(value.h, 1, image.height);
      const x = clamp(value.x, 0, image.width - w), y = clamp(value.y, 0, image.height - high);
      aspect = "Free";
      setBox([x / image.width, y / image.height, (x + w) / image.width, (y + high) / image.height]);
    }

    function shapes() {
      const pick = (name) => { aspect = name; if (shape()) setBox(fitted(image, shape(), boxes[chosen])); else drawList(); };
      const trained = found ? [...new Set(found.shapes.map(([width, height]) => `${width}:${height}`))] : [];
      const named = ["Free", "Original", "1:1"];
      const menu = h("select.ls-input", { id: "ls-shape-aspect", "aria-label": "A shape that is trained", onchange: (event) => pick(event.target.value || "Free") },
        h("option", { value: "" }, "A training shape …"), trained.map((name) => h("option", { value: name }, name.replace(":", " × "))));
      menu.value = trained.includes(aspect) && !named.includes(aspect) ? aspect : "";
      return [h("div.ls-segments", { role: "group", "aria-label": "Shape of the crop" }, named.map((name) => h("button.ls-segment" + (name === aspect ? ".current" : ""), { type: "button", "aria-pressed": String(name === aspect), onclick: () => pick(name) }, name))), trained.length > 0 && menu];
    }

    function drawList() {
      if (mode !== "crop") return;
      refill(list,
        h("div.ls-crops", { role: "listbox", "aria-label": "Crops of this picture" }, boxes.map((box, index) => {
          const part = partOf(index);
          return h("div.ls-crop-row" + (index === chosen ? ".current" : ""), { role: "option", "aria-selected": String(index === chosen), onclick: () => choose(index) },
            h("b", null, isWhole(box) ? "Whole picture" : `Crop ${index + 1}`),
            h("span.ls-muted", null, part ? `${part.size.join(" × ")} → ${part.bucket.join(" × ")}` : ""),
            (boxes.length > 1 || !isWhole(box)) && h("button.ls-close", { type: "button", "aria-label": `Remove crop ${index + 1}`, title: "Remove (Del)", onclick: (event) => { event.stopPropagation(); remove(index); } }, icon("trash", 13)));
        })),
        h("div.ls-row", null, button("Add a crop", add, { icon: "plus", id: "ls-crop-add", title: "A picture with several crops counts as several pictures (A)" })),
        h("h3", null, boxes.length > 1 ? `Crop ${chosen + 1}` : "The crop"), shapes(),
        h("div.ls-row", null, button("To the face", () => to("face"), { id: "ls-crop-face" }), button("To the subject", () => to("subject"), { id: "ls-crop-subject" }),
          !isWhole(boxes[chosen]) && button("Whole picture", () => { aspect = "Free"; setBox(WHOLE); })),
        h("div.ls-numbers", null, EDGES.map(([title, edge]) => h("label.ls-field", null, title, h("input.ls-input", { type: "number", id: `ls-crop-${edge}`, "data-edge": edge, min: edge === "x" || edge === "y" ? 0 : 1, onchange: typed })))),
        partOf(chosen) && fate(partOf(chosen)).map((one) => h(`div.ls-note.${one.level}`, null, one.text)),
        boxes.length > 1 && h("div.ls-muted", null, `Trained like ${plural(boxes.length, "picture")}, all with the same caption.`));
      drawNumbers();
    }

    function drawFoot() {
      const dirty = dirtyCrops() || mask.dirty;
      node.dataset.dirty = dirty ? "yes" : "no";
      refill(foot, h("div.ls-shape-hints", null, HINTS[mode].map(([key, text]) => h("span", null, h("kbd", null, key), " ", text))),
        h("div.ls-row", null, mode === "crop" && button("Undo", undo, { kind: "quiet", icon: "undo", disabled: !history.length, id: "ls-crop-undo" }),
          button(dirty ? "Cancel" : "Close", () => (dirty ? shut() : leave()), { id: "ls-shape-cancel" }), button("Save", save, { kind: "primary", disabled: !dirty, id: "ls-shape-save", title: "Ctrl+S" })));
      if (node.open && !node.contains(document.activeElement)) node.focus({ preventScroll: true }); // what had it is not drawn any more
    }

    function draw() {
      node.dataset.mode = mode;
      mask.canvas.hidden = mode !== "mask";
      if (mode !== "mask") { mask.cursor.hidden = true; mask.boxNode.hidden = true; }
      for (const tab of head.querySelectorAll("[data-mode]")) { tab.classList.toggle("current", tab.dataset.mode === mode); tab.setAttribute("aria-selected", String(tab.dataset.mode === mode)); }
      const panel = { crop: list, mask: mask.node, trained: trained.node }[mode];
      if (side.firstChild !== panel) fill(side, panel);
      drawFrames();
      drawList();
      if (mode === "trained") trained.draw(parts, chosen, boxes);
      drawFoot();
    }
    const turn = (next) => { mode = next; draw(); };

    // ---- leaving ------------------------------------------------------------------------------------------------------

    function shut() { clearTimeout(timer); node.close(); node.remove(); resolve(); return true; }
    async function save() {
      if (saving || !(dirtyCrops() || mask.dirty)) return;
      saving = true;
      try {
        if (dirtyCrops()) await editPictures("curation.crops", { id: image.id, boxes: boxes.map(plain) });
        if (mask.dirty) await editPictures("curation.mask", { id: image.id, png: await mask.png() });
        shut();
      } finally { saving = false; }
    }
    /** Close; what is not saved only when that is meant. Whether it closed. */
    async function leave() {
      if (!(dirtyCrops() || mask.dirty)) return shut();
      return (await confirm("Leave without saving?", "The changes to this picture's crops and mask are not saved yet.", "Leave")) === true && shut();
    }

    node.addEventListener("cancel", (event) => { event.preventDefault(); leave(); });
    node.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.target.closest("input:not([type=range]):not([type=checkbox]), select")) return;
      const key = event.key.toLowerCase(), control = event.ctrlKey || event.metaKey;
      const run = control ? { s: () => save().catch((error) => { if (!(error instanceof Failure)) throw error; }), z: mode === "crop" && undo }[key]
        : { 1: () => turn("crop"), 2: () => turn("mask"), 3: () => turn("trained"), "+": () => sheet.zoom(1.5), "=": () => sheet.zoom(1.5), "-": () => sheet.zoom(1 / 1.5), 0: sheet.fit,
          ...(mode !== "mask" ? { n: () => choose(chosen + 1) } : {}), ...(mode === "crop" ? { a: add, delete: () => remove(chosen), backspace: () => remove(chosen) } : {}) }[key];
      if (run) { event.preventDefault(); run(); return; }
      if (mode === "mask" && mask.onKey(event)) { event.preventDefault(); return; }
      if (mode === "crop" && event.target.type !== "range") frame.onKey(event);
    });

    fill(head, h("div.ls-segments", { role: "tablist", "aria-label": "What to edit" }, Object.entries(MODES).map(([name, title], index) => h("button.ls-segment", { type: "button", role: "tab", "data-mode": name, title: String(index + 1), onclick: () => turn(name) }, title))),
      h("span.ls-name", { title: image.name }, `#${image.id} ${image.name.split("/").pop()}`), h("span.ls-muted", null, `${image.width} × ${image.height}`), h("div.ls-fill"),
      h("button.ls-icon-button", { type: "button", title: "Smaller (−)", "aria-label": "Smaller", onclick: () => sheet.zoom(1 / 1.5) }, "−"), h("button.ls-icon-button", { type: "button", title: "All of it (0)", "aria-label": "All of it", onclick: sheet.fit }, icon("image", 15)), h("button.ls-icon-button", { type: "button", title: "Larger (+)", "aria-label": "Larger", onclick: () => sheet.zoom(1.5) }, "+"),
      h("button.ls-close", { type: "button", "aria-label": "Close", onclick: leave }, icon("close", 14)));
    node.append(head, h("div.ls-shape-body", null, sheet.node, side), foot);
    document.body.append(node);
    node.showModal();
    node.focus();
    draw();
    measure();
    call("curation.shaping", { project: state.project }, { quiet: true }).then((answer) => { found = answer; if (node.isConnected) { draw(); mask.draw(); } }, (error) => { if (!(error instanceof Failure)) throw error; });
    mask.ready.catch(() => toast("The mask of this picture cannot be read.", { remedy: "Paint a new one; saving replaces it.", level: "bad" }));
  });
}
