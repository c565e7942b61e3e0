// Which pictures the grid shows, and in which order: decisions, what was found, and the filter field.
import { Failure, button, call, fill, h, icon, number, state } from "./core.js";
import { pictures, proposal } from "./pictures.js";
import { DECISIONS, flags, short } from "./words.js";

const SORTS = [["", "In order of import"], ["name", "By name"], ["sharpness", "By sharpness"], ["pixels", "By resolution"], ["aspect", "By shape"], ["size", "By file size"], ["decision", "By decision"]];

/** The word that the caret stands in: where it begins, and its text up to the caret. */
function wordAt(input) {
  const text = input.value.slice(0, input.selectionStart);
  const word = text.match(/[\w:]*$/)[0];
  return { start: text.length - word.length, word };
}

/**
 * {node, chips, sort, active, shown() -> images, draw(), focus(), choose(chip), decision(name), only(ids, title), clear(), empty()}
 *
 * options: id of the field; all() -> the pictures there are; find and fields, the functions that answer; sorts; judged:
 * whether decisions and what was found can be chosen too; extra: {test(image), chips(), clear(), active}, a filter that the
 * tab has beside this one; more(word): further words to offer, like the fields.
 */
export function filterBar({ onChange, focusGrid, id = "ls-filter", sortId = "ls-sort", placeholder = "Filter: blurred, width < 512 …", all: pile = () => pictures.all, find: finds = "curation.find", fields: names = "curation.fields", sorts = SORTS, judged = true, extra = null, more = () => [] }) {
  let decision = "all", chip = "", group = null, found = null, asked = 0, timer = 0, fields = [], offered = [], picked = -1;
  let order = "", down = false;

  const input = h("input.ls-search", {
    type: "text", id, placeholder, "aria-label": "Filter", autocomplete: "off", spellcheck: "false",
    role: "combobox", "aria-expanded": "false", "aria-controls": `${id}-words`, oninput: typed, onkeydown: onKey,
    onfocus: async () => { if (!fields.length) fields = await call(names, {}, { quiet: true }).catch(() => []); offer(); },
    onblur: () => setTimeout(() => fill(words), 150), onclick: () => offer(),
  });
  const words = h("div.ls-words", { id: `${id}-words`, role: "listbox", "aria-label": "What can be filtered by" });
  const wrong = h("div.ls-filter-wrong", { id: `${id}-wrong`, role: "status" });
  const clearButton = h("button.ls-close.ls-filter-clear", { type: "button", "aria-label": "Clear the filter", title: "Clear the filter (Esc)", onclick: () => { clear(); onChange(); input.focus(); } }, icon("close", 11));
  const decisions = judged && h("div.ls-segments", { role: "group", "aria-label": "Decision" });
  const chips = h("div.ls-chipline", { role: "group", "aria-label": judged ? "What was found" : "Filters" });
  const field = h("div.ls-tag-field.ls-filter-field", null, h("div.ls-search-box", null, icon("search", 14), input, clearButton), words);
  const menu = h("select.ls-order", { id: sortId, "aria-label": "Order", onchange: () => { order = menu.value; arrow.hidden = !order; find(); } }, sorts.map(([value, text]) => h("option", { value }, text)));
  const arrow = button("", () => { down = !down; arrow.classList.toggle("down", down); find(); }, { kind: "quiet", icon: "drop", title: "Turn the order round", label: "Turn the order round" });
  arrow.classList.add("ls-turn");
  arrow.hidden = true;
  const node = h("div.ls-filterbar", null, h("div.ls-toolbar", null, decisions, field), wrong);

  const CHIPS = {
    "suggest:keep": ["suggested: keep", (image) => (proposal(image) || {}).decision === "keep"],
    "suggest:maybe": ["suggested: maybe", (image) => (proposal(image) || {}).decision === "maybe"],
    "suggest:reject": ["suggested: reject", (image) => (proposal(image) || {}).decision === "reject"],
  };
  const has = (image, name) => (CHIPS[name] ? CHIPS[name][1](image) : flags(image).some((flag) => short(flag.name) === name));
  const decided = (image) => decision === "all" || image.decision === decision;

  // ---- the filter field -----------------------------------------------------------------------------------------------

  function typed() { offer(); clearTimeout(timer); timer = setTimeout(find, 300); }

  /** Ask the studio which pictures the text means and in which order; without either, all of them. */
  async function find() {
    clearTimeout(timer);
    const text = input.value.trim(), mine = ++asked;
    clearButton.hidden = !text;
    if (!text && !order) { found = null; tellWrong(""); onChange(); return; }
    try {
      const answer = await call(finds, { project: state.project, text, sort: order, down }, { quiet: true });
      if (mine !== asked) return;
      found = answer.ids;
      tellWrong("");
    } catch (error) {
      if (!(error instanceof Failure) || mine !== asked) return;
      tellWrong(error.message, error.remedy);
      return; // what was shown stays
    }
    onChange();
  }

  function tellWrong(message, remedy = "") {
    input.setAttribute("aria-invalid", String(Boolean(message)));
    fill(wrong, message && [icon("warn", 13), h("span", null, message, " ", h("span.ls-muted", null, remedy))]);
  }

  /** The fields that begin like the word at the caret; all of them in an empty field. */
  function offer() {
    const { word } = wordAt(input);
    const wanted = word.toLowerCase();
    const known = fields.some((one) => one.name === wanted);
    offered = document.activeElement !== input || known || (!wanted && input.value.trim()) ? [] : [...fields.filter((one) => one.name.startsWith(wanted)), ...(wanted ? more(wanted) : [])].slice(0, 9);
    picked = -1;
    drawWords();
  }
  function drawWords() {
    input.setAttribute("aria-expanded", String(offered.length > 0));
    fill(words, offered.map((one, index) => h("div.ls-word" + (index === picked ? ".current" : ""), { role: "option", "aria-selected": String(index === picked), onmousedown: (event) => { event.preventDefault(); take(one); } },
      h("code", null, one.example || one.name), h("span.ls-faint", null, one.text))));
  }
  function take(one) {
    const { start, word } = wordAt(input);
    input.setRangeText(one.example || one.name, start, start + word.length, "end");
    offered = [];
    drawWords();
    find();
  }
  function onKey(event) {
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (move && offered.length) { event.preventDefault(); picked = (picked + move + offered.length + 1) % (offered.length + 1); if (picked === offered.length) picked = -1; drawWords(); return; }
    if ((event.key === "Enter" || event.key === "Tab") && picked >= 0) { event.preventDefault(); take(offered[picked]); return; }
    if (event.key === "Enter") { event.preventDefault(); offered = []; drawWords(); find().then(() => { if (input.getAttribute("aria-invalid") !== "true") focusGrid(); }); return; }
    if (event.key === "Escape") { event.preventDefault(); if (offered.length) { offered = []; drawWords(); } else if (input.value) { input.value = ""; find(); } else { focusGrid(); } }
  }

  // ---- decisions and chips --------------------------------------------------------------------------------------------

  function matched() {
    const all = found ? found.map((id) => pictures.byId.get(id)).filter(Boolean) : pile();
    return group ? all.filter((image) => group.ids.has(image.id)) : all;
  }

  function drawDecisions(all) {
    const counts = { new: 0, keep: 0, maybe: 0, reject: 0 };
    for (const image of all) counts[image.decision] += 1;
    fill(decisions, Object.entries({ all: "All", ...DECISIONS }).map(([name, title]) => h("button.ls-segment" + (name === decision ? ".current" : ""), {
      type: "button", "aria-pressed": String(name === decision), id: `ls-filter-${name}`, onclick: () => { decision = name; onChange(); },
    }, title, h("span.count", null, number(name === "all" ? all.length : counts[name])))));
  }

  const groupChip = () => group && h("button.ls-filter", { type: "button", title: "Show all again", onclick: () => { group = null; onChange(); } }, group.title, icon("close", 9));

  function drawChips(all) {
    const counts = new Map();
    for (const image of all) {
      if (!decided(image)) continue;
      for (const name of new Set(flags(image).map((flag) => short(flag.name)))) counts.set(name, (counts.get(name) || 0) + 1);
    }
    const names = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    if (chip && !CHIPS[chip] && !counts.has(chip)) names.push([chip, 0]);
    if (CHIPS[chip]) names.unshift([chip, all.filter((image) => decided(image) && has(image, chip)).length]);
    fill(chips, groupChip(), names.map(([name, count]) => h("button.ls-chip-button" + (name === chip ? ".current" : ""), { type: "button", "aria-pressed": String(name === chip), "data-chip": name, onclick: () => { chip = chip === name ? "" : name; onChange(); } },
        CHIPS[name] ? CHIPS[name][0] : name, h("span.count", null, number(count)))));
  }

  function draw() {
    if (!judged) { fill(chips, groupChip(), extra && extra.chips()); return; }
    const all = matched();
    drawDecisions(all);
    drawChips(all);
  }
  function clear() {
    decision = "all"; chip = ""; group = null; found = null; input.value = ""; asked += 1;
    if (extra) extra.clear();
    tellWrong("");
    clearButton.hidden = true;
    if (order) find();
  }
  clearButton.hidden = true;

  return {
    node, chips, sort: h("div.ls-row.ls-sort", null, menu, arrow), draw, clear,
    shown: () => matched().filter((image) => decided(image) && (!chip || has(image, chip)) && (!extra || extra.test(image))),
    /** Whether anything narrows what is shown. */
    get active() { return Boolean(found && input.value.trim() || group || chip || decision !== "all" || (extra && extra.active)); },
    /** After an edit: the text may now mean other pictures. */
    again() { if (input.value.trim() || order === "decision") { clearTimeout(timer); timer = setTimeout(find, 400); } },
    focus() { input.focus(); input.select(); },
    choose(name) { chip = name; onChange(); },
    decision(name) { clear(); decision = name; onChange(); },
    only(ids, title) { clear(); group = { ids: new Set(ids), title }; onChange(); },
    empty: () => h("div.ls-empty", null, icon(decision === "new" ? "check" : "search", 30),
      h("h3", null, decision === "new" && !chip && !found ? "Every picture has been decided on" : "No picture is like that"),
      h("p", null, decision === "new" && !chip && !found ? "“The set” shows what they make together; then describe them in the next step." : "Nothing matches these filters together."),
      button("Show all pictures", () => { clear(); onChange(); })),
  };
}
