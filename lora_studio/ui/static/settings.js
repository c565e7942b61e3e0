// Over the fields of Training: find a setting by a word, show only what differs from the recommendation, mark it and take it
// back with one click. What differs is found in Python (tabs/training.py); gradio draws the fields, this only marks them.
import { call, fill, h, icon, part, plural } from "./core.js";

let facts = { project: "", fields: {}, sections: {} };
window.addEventListener("ls:facts", (event) => { facts = event.detail; });

const idOf = (name) => `ls-set-${name.replaceAll(".", "-")}`;
const isOpen = (accordion) => accordion.querySelector(".label-wrap").classList.contains("open");

part("settings", async (root, trigger) => {
  const form = root.closest(".ls-form");
  let known = [], onlyChanged = false, hits = null;
  const opened = new Set();
  const box = h("input.ls-search", { type: "search", id: "ls-find-setting", placeholder: "Find a setting", "aria-label": "Find a setting", autocomplete: "off" });
  const chip = h("button.ls-segment", { type: "button", id: "ls-only-changed", title: "Show only the settings that differ from the recommendation" });
  const said = h("div.ls-muted", { id: "ls-find-said", role: "status" });
  fill(root, h("div.ls-find", null, h("label.ls-search-box", null, icon("search", 13), box), h("div.ls-segments", null, chip)), said);
  const accordions = () => [...form.querySelectorAll(".ls-accordion")];
  const sectionOf = (name) => document.getElementById(`ls-advanced-${name.split(".")[0]}`);
  const differs = (name) => Boolean(facts.fields[name] && "back" in facts.fields[name]);

  function markField(one) {
    const block = document.getElementById(idOf(one.name));
    if (!block) return;
    const fact = facts.fields[one.name] || {};
    block.classList.toggle("ls-bad", Boolean(fact.bad));
    block.classList.toggle("ls-changed", "back" in fact);
    block.classList.toggle("ls-out", hits !== null && !hits.has(one.name));
    block.dataset.name = one.name;
    const title = block.querySelector("[data-testid=block-info]");
    if (title && fact.note) title.dataset.note = fact.note; else if (title) delete title.dataset.note;
    let back = block.querySelector(".ls-back");
    if (!("back" in fact)) { if (back) back.remove(); return; }
    if (!back) {
      back = h("button.ls-back", { type: "button", onclick: (event) => { event.preventDefault(); event.stopPropagation(); trigger("back", { name: one.name }); } }, icon("undo", 12));
      block.append(back);
    }
    const text = `Back to the recommended ${fact.back}`;
    if (back.title !== text) { back.title = text; back.setAttribute("aria-label", `${one.title}: ${text}`); }
  }

  function mark() {
    known.forEach(markField);
    const changed = known.filter((one) => differs(one.name));
    for (const accordion of accordions()) {
      const inside = (one) => sectionOf(one.name) === accordion && !one.simple;
      const count = changed.filter(inside).length, section = accordion.id.replace("ls-advanced-", "");
      const head = accordion.querySelector(".label-wrap > span");
      const summary = [facts.sections[section], count && `${count} changed`].filter(Boolean).join(" · ");
      if (head.dataset.summary !== summary) head.dataset.summary = summary;
      accordion.classList.toggle("ls-changed", count > 0);
      accordion.classList.toggle("ls-bad", known.some((one) => inside(one) && (facts.fields[one.name] || {}).bad));
      accordion.classList.toggle("ls-out", hits !== null && !known.some((one) => inside(one) && hits.has(one.name)));
    }
    const text = onlyChanged ? "Show all" : plural(changed.length, "change");
    if (chip.textContent !== text) chip.textContent = text;
    chip.hidden = !changed.length && !onlyChanged;
    chip.setAttribute("aria-pressed", String(onlyChanged));
    chip.classList.toggle("current", onlyChanged);
  }

  /** Only the settings that hold every word, or differ; their sections are opened, and closed again afterwards. */
  function find() {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    hits = null;
    if (words.length || onlyChanged) {
      hits = new Set(known.filter((one) => words.every((word) => one.text.includes(word)) && (!onlyChanged || differs(one.name))).map((one) => one.name));
    }
    const wanted = new Set(hits ? known.filter((one) => hits.has(one.name) && !one.simple).map((one) => sectionOf(one.name)) : []);
    for (const accordion of accordions()) {
      if (wanted.has(accordion) && !isOpen(accordion)) { opened.add(accordion); accordion.querySelector(".label-wrap").click(); }
      if (!wanted.has(accordion) && opened.delete(accordion) && isOpen(accordion)) accordion.querySelector(".label-wrap").click();
    }
    mark();
    setTimeout(tell, 120); // fields of a section that was just opened are there by then
  }

  function tell() {
    if (!hits || onlyChanged) { fill(said); return; }
    const away = known.filter((one) => hits.has(one.name) && one.when && !shown(one.name));
    fill(said, hits.size === 0 && "No setting is about that.", away.slice(0, 4).map((one) => h("div", null, `${one.title}: counts when ${one.when}.`)));
  }
  const shown = (name) => { const block = document.getElementById(idOf(name)); return Boolean(block && block.offsetParent); };

  /** Show a setting that a sentence names. */
  function reveal(name) {
    box.value = ""; onlyChanged = false; find();
    const section = sectionOf(name), one = known.find((other) => other.name === name);
    if (section && one && !one.simple && !isOpen(section)) section.querySelector(".label-wrap").click();
    setTimeout(() => {
      const block = document.getElementById(idOf(name));
      if (!block) return;
      block.scrollIntoView({ block: "center" });
      const field = block.querySelector("input, textarea");
      if (field) field.focus({ preventScroll: true });
    }, 60);
  }

  let waiting = false;
  const soon = () => { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; mark(); }); } };
  window.addEventListener("ls:facts", () => { if (onlyChanged && !known.some((one) => differs(one.name))) { onlyChanged = false; find(); } else if (onlyChanged) find(); else mark(); });
  window.addEventListener("ls:go", () => { if (box.value || onlyChanged) { box.value = ""; onlyChanged = false; find(); } });
  box.addEventListener("input", find);
  box.addEventListener("keydown", (event) => { if (event.key === "Escape") { box.value = ""; find(); } });
  chip.addEventListener("click", () => { onlyChanged = !onlyChanged; find(); });
  form.addEventListener("click", (event) => { const link = event.target.closest("[data-setting]"); if (link) reveal(link.dataset.setting); });
  known = (await call("training.settings")).map((one) => ({ ...one, text: `${one.title} ${one.text}`.toLowerCase(), simple: Boolean(form.querySelector(`.ls-form-grid #${idOf(one.name)}`)) }));
  new MutationObserver((changes) => { if (changes.some((change) => [...change.addedNodes].some((node) => node.nodeType === 1 && !node.classList.contains("ls-back")))) soon(); }).observe(form, { childList: true, subtree: true });
  mark();
});
