// Tagging: the tagger's words, the tag list to filter by, changes over many captions, and the chips of one picture.
import { button, call, dialog, fill, h, icon, number, part, plural, poll, state, toast } from "./core.js";
import { chipsEditor, split, tagField } from "./chips.js";
import { createGrid, sizeButtons } from "./grid.js";
import { editPictures, load, pictures, used as trained } from "./pictures.js";
import { undoLast } from "./shell.js";
import { seenView } from "./tagger-seen.js";
import { taggerPanel } from "./tagger-panel.js";

part("tagging", (root) => {
  let info = null, vocabulary = [], image = null, search = "", asking = false, view = "pictures";
  const filter = new Map(); // tag -> true (must have) or false (must not)
  const used = () => pictures.all.filter(trained);
  const tagsOf = (one) => split(one.caption);
  const has = (one, tag) => tag === "" ? !one.caption : tagsOf(one).some((other) => other.toLowerCase() === tag.toLowerCase());
  const shown = () => used().filter((one) => [...filter].every(([tag, yes]) => has(one, tag) === yes));
  const scope = () => { const ids = grid.selected; return ids.length > 1 ? ids : grid.rows.map((one) => one.id); };
  const scopeText = () => { const ids = grid.selected; return ids.length > 1 ? `the ${ids.length} selected` : filter.size ? `the ${grid.rows.length} shown` : `all ${grid.rows.length}`; };
  const words = () => {
    const counts = new Map((info ? info.counts : []).map(([name, count]) => [name, count]));
    return [...(info && info.trigger ? [{ name: info.trigger, count: 0 }] : []), ...[...counts].map(([name, count]) => ({ name, count })), ...vocabulary.filter((name) => !counts.has(name)).map((name) => ({ name, count: 0 }))];
  };

  const grid = createGrid({
    label: "Pictures to tag",
    foot: (one) => one.caption || "no tags",
    badges: (one) => [{ text: String(tagsOf(one).length), level: one.caption ? "plain" : "warn" }],
    onCurrent: (one) => { image = one; drawPicture(); },
    onSelect: () => drawScope(),
    onKey: (event) => { const key = event.key.toLowerCase(); if (key === "t") { chips.focus(); return true; } if (key === "u") { undoLast(); return true; } return false; },
    empty: () => used().length ? h("div.ls-empty", null, icon("search", 28), h("h3", null, "No picture has these tags"), button("Clear the filter", () => { filter.clear(); draw(); }))
      : h("div.ls-empty", null, icon("image", 30), h("h3", null, "No pictures yet"), h("p", null, "Gather some first.")),
  });
  const chips = chipsEditor({ words, onChange: (tags) => editPictures("tagging.caption", { id: image.id, caption: tags.join(", ") }) });

  const tagger = taggerPanel({ scope: () => ({ shown: grid.rows.map((one) => one.id), selected: grid.selected }) });
  const seen = seenView(), seenBox = h("div.ls-seen-box"), switcher = h("div.ls-segments");
  const head = h("div.ls-toolbar"), listBox = h("div.ls-taglist-rows");
  const find = h("input.ls-search", { type: "search", placeholder: "Find a tag", "aria-label": "Find a tag", oninput: () => { search = find.value.toLowerCase(); drawList(); } });
  const list = h("div.ls-taglist", null, h("div.ls-search-box", null, icon("search", 14), find), listBox);
  const picture = h("img.ls-side-picture", { alt: "" }), name = h("div.ls-name"), scopeBox = h("section"), findings = h("section");
  const side = h("div.ls-side", null, picture, name, chips.node, scopeBox, findings);
  const panes = h("div.ls-panes.three.ls-tagpanes", null, list, h("div.ls-pane", null, head, tagger.line, grid.node), side);
  fill(root, h("div.ls-curation", null, h("div.ls-toolbar.ls-views", null, switcher), panes, seenBox));

  function drawPicture() {
    picture.hidden = chips.node.hidden = name.hidden = !image;
    if (!image) return;
    const source = `/media/${encodeURIComponent(state.project)}/${image.id}/full?v=${image.v}`;
    if (picture.getAttribute("src") !== source) picture.src = source;
    picture.alt = image.name;
    name.textContent = `#${image.id} ${image.name}`;
    chips.show(image.caption, info ? info.trigger : "");
  }

  function drawHead() {
    fill(head, tagger.node,
      info && info.trigger && button("Trigger first", async () => { const answer = await editPictures("tagging.trigger_first", { ids: scope() }); toast(answer.count ? `${info.trigger} leads ${plural(answer.count, "caption")} now` : "It leads every caption already", { action: answer.count ? { text: "Undo", run: undoLast } : null }); }, { disabled: !used().length, title: `Put ${info.trigger} in front of the captions of ${scopeText()}` }),
      [...filter].map(([tag, yes]) => h("button.ls-filter", { type: "button", title: "Remove this filter", onclick: () => { filter.delete(tag); draw(); } }, yes ? "" : "not ", tag || "no tags", icon("close", 9))),
      h("div.ls-fill"), h("span.ls-muted", null, filter.size ? `${grid.rows.length} of ${used().length}` : plural(used().length, "picture")), sizeButtons(grid));
  }

  function drawList() {
    if (!info) { fill(listBox, [1, 2, 3, 4].map(() => h("div.ls-skeleton.line"))); return; }
    const bare = used().filter((one) => !one.caption).length;
    const rows = [...(bare ? [["", bare]] : []), ...info.counts].filter(([tag]) => tag.toLowerCase().includes(search)).slice(0, 400);
    fill(listBox, rows.map(([tag, count]) => h("button.ls-tagrow" + (filter.has(tag) ? (filter.get(tag) ? ".yes" : ".no") : ""), {
      type: "button", "aria-pressed": String(filter.has(tag)), title: "Click: only these. Again: all but these.",
      onclick: () => { if (!filter.has(tag)) filter.set(tag, true); else if (filter.get(tag)) filter.set(tag, false); else filter.delete(tag); draw(); },
    }, h("span.ls-ellipsis" + (tag ? "" : ".ls-warn"), null, tag || "no tags"), info.trigger && tag.toLowerCase() === info.trigger.toLowerCase() && h("span.ls-badge.accent", null, "trigger"), h("span.ls-faint", null, number(count)))));
    if (!rows.length) fill(listBox, h("div.ls-none", null, info.counts.length ? "No tag of that name." : "Tags appear here with how many pictures have them."));
  }

  function drawScope() {
    if (!used().length) { fill(scopeBox); return; }
    const many = scope().length;
    fill(scopeBox, h("h3", null, `Change ${scopeText()}`), h("div.ls-row", null, button("Add", () => bulk("add"), { disabled: !many, id: "ls-bulk-add" }), button("Remove", () => bulk("remove"), { disabled: !many, id: "ls-bulk-remove" }), button("Replace", () => bulk("replace"), { disabled: !many, id: "ls-bulk-replace" })));
  }

  /** One change over many captions; says beforehand how many it will touch. */
  function bulk(kind) {
    const ids = scope(), rows = pictures.all.filter((one) => ids.includes(one.id)), where = scopeText();
    const only = [...filter].find(([tag, yes]) => tag && yes);
    return dialog({ add: "Add a tag", remove: "Remove a tag", replace: "Replace a tag" }[kind], (close) => {
      let old = kind === "add" ? "" : only ? only[0] : "", fresh = "";
      const preview = h("p.ls-preview", { "aria-live": "polite" });
      const go = button({ add: "Add", remove: "Remove", replace: "Replace" }[kind], async () => {
        old = old || first.input.value.trim();
        if (second && !fresh) fresh = second.input.value.trim();
        const [call_, args] = kind === "add" ? ["tagging.add", { ids, tags: [old] }] : kind === "remove" ? ["tagging.remove", { ids, tags: [old] }] : ["tagging.replace", { ids, old, new: fresh }];
        close();
        const answer = await editPictures(call_, args);
        toast(`${plural(answer.count, "caption")} changed`, { action: { text: "Undo", run: undoLast } });
      }, { kind: "primary", id: "ls-bulk-go" });
      const update = () => {
        const typed = old || first.input.value.trim();
        const count = rows.filter((one) => has(one, typed)).length;
        const touched = kind === "add" ? rows.length - count : count;
        preview.textContent = typed ? `${plural(touched, "caption")} of ${where} will change.` : "";
        go.disabled = !typed || !touched || (kind === "replace" && !(fresh || second.input.value.trim()));
      };
      const first = tagField({ placeholder: kind === "add" ? "Tag to add" : "Tag to take out", label: "Tag", id: "ls-bulk-tag", words, onPick: (text) => { old = text; setTimeout(() => { first.input.value = text; update(); }); } });
      const second = kind === "replace" ? tagField({ placeholder: "Put this in its place", label: "New tag", id: "ls-bulk-new", words, onPick: (text) => { fresh = text; setTimeout(() => { second.input.value = text; update(); }); } }) : null;
      first.input.value = old;
      first.input.addEventListener("input", () => { old = ""; update(); });
      if (second) second.input.addEventListener("input", () => { fresh = ""; update(); });
      setTimeout(() => { update(); (old && second ? second : first).input.focus(); });
      return h("div.ls-stack", null, first.node, second && second.node, preview, h("div.ls-row.end", null, button("Cancel", () => close()), go));
    });
  }

  function drawFindings() {
    if (!info || !used().length || !info.findings.length) { fill(findings); return; }
    fill(findings, h("h3", null, "About the captions"), info.findings.map((finding) => h("div", null,
      h(`div.ls-note.${finding.level}`, null, h("span", null, finding.text, finding.images.length > 0 && h("button.ls-link", { type: "button", onclick: () => show(finding.images) }, "show"))), finding.remedy && h("div.ls-muted.ls-remedy", null, finding.remedy), pruning(finding.evidence.share))));
  }

  /** A button for each tag that stands on nearly all pictures: takes it out of every caption, and can be undone. */
  function pruning(share) {
    if (!share) return null;
    return h("div.ls-prune", { role: "group", "aria-label": "Prune from all captions" }, Object.entries(share).slice(0, 12).map(([tag, part]) =>
      button([h("span.ls-ellipsis", null, tag), h("span.ls-faint", null, `${Math.round(100 * part)} %`), icon("close", 9)], async () => {
        const answer = await editPictures("tagging.prune", { tag });
        toast(`${tag} taken out of ${plural(answer.count, "caption")}`, { action: { text: "Undo", run: undoLast } });
      }, { kind: "small", title: `Take ${tag} out of all captions: ${info.trigger || "the LoRA"} stands for it then`, label: `Prune ${tag}` })));
  }
  function show(ids) { filter.clear(); const wanted = new Set(ids); grid.set(used().filter((one) => wanted.has(one.id))); drawHead(); drawList(); }

  function draw() {
    if (state.step !== "tagging") return;
    fill(switcher, [["pictures", "Pictures"], ["seen", seen.title]].map(([name, title]) => h("button.ls-segment" + (name === view ? ".current" : ""), { type: "button", id: `ls-tag-view-${name}`, onclick: () => { view = name; draw(); } }, title)));
    panes.hidden = view !== "pictures";
    seenBox.hidden = view === "pictures";
    if (view !== "pictures") { seen.draw(seenBox); return; }
    grid.set(shown());
    drawHead(); drawList(); drawPicture(); drawScope(); drawFindings();
  }

  async function ask() {
    if (!state.project || asking) return;
    asking = true;
    try {
      const project = state.project;
      const found = await call("tagging.info", { project }, { quiet: true });
      if (project !== state.project) return;
      info = found;
      drawHead(); drawList(); drawFindings(); drawPicture();
    } finally { asking = false; }
  }

  window.addEventListener("ls:pictures", () => { draw(); if (state.step === "tagging") ask().catch(() => {}); });
  window.addEventListener("ls:go", () => { if (state.step !== "tagging") return; if (pictures.project !== state.project) { info = null; filter.clear(); } draw(); ask().catch(() => {}); });
  window.addEventListener("ls:next", (event) => { if (event.detail === "tagging" && used().length) Promise.resolve(tagger.run()).catch(() => {}); });
  poll(root, 1, async () => { if (!info) await ask(); });
  call("tagging.words").then((found) => { vocabulary = found; }, () => {});
  load().then(() => { draw(); return ask(); }).catch(() => {});
  draw();
});
