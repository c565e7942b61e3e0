// "Where from?": the sources of pictures, one shown at a time. What a setting is called in Python, its kind, limits and
// default come from there; here stand only the words for people.
import { Failure, button, call, fill, h, icon, plural, state, toast } from "./core.js";
import { load as reload } from "./pictures.js";
import { VIDEO } from "./uploads.js";

const GLYPHS = {
  files: "M8 10.5V2.5M5 5.5l3-3 3 3M2.5 10v3.5h11V10", path: "M2 4h4.5l1.5 2h6v7H2z",
  urls: "M6.5 9.5l3-3M7 4.5l1.2-1.2a2.9 2.9 0 014.5 4.5L11.5 9M9 11.5l-1.2 1.2a2.9 2.9 0 01-4.5-4.5L4.5 7",
  booru: "M2.5 2.5h4.5v4.5H2.5zM9 2.5h4.5v4.5H9zM2.5 9h4.5v4.5H2.5zM9 9h4.5v4.5H9z",
  video: "M2 4h8.5v8H2zM10.5 7L14 5v6l-3.5-2", project: "M3.5 2.5h6.5v2M3.5 2.5v8M6 5h7v8.5H6z",
  hub: "M8 1.8l5.5 3v6.4L8 14.2l-5.5-3V4.8zM2.5 4.8L8 8l5.5-3.2M8 8v6",
};
const glyph = (name) => h("svg.ls-icon", { viewBox: "0 0 16 16", width: 18, height: 18, "aria-hidden": "true" }, h("path", { d: GLYPHS[name] }));

const SOURCES = {
  files: { title: "Files", about: "Pictures, whole folders or a zip of your computer. Captions in .txt files beside them come along." },
  path: { title: "Path", about: "Folders, files or zips by their path on this machine. Nothing is copied through the browser.", go: "Import" },
  urls: { title: "Addresses", about: "Pictures on the web. Each is fetched and checked; what is no picture is named.", go: "Fetch" },
  booru: { title: "Board", about: "A search on a picture board. Tags, artist and source of each post are kept.", go: "Search and fetch" },
  video: { title: "Video", about: "The sharpest frames of each scene, none twice." },
  project: { title: "Project", about: "All pictures of another project, with captions, decisions and crops.", go: "Take them over" },
  hub: { title: "Dataset", about: "A data set of the Hugging Face hub, with its captions.", go: "Fetch" },
};
const FIELDS = { path: ["paths"], urls: ["urls"], booru: ["site", "tags", "rating", "limit", "user", "server"], video: ["seconds", "frames"], project: ["project"], hub: ["dataset", "limit"] };
const THANKS = ["author", "licence", "consent"];
const WORDS = { // where the setting's own name says too little
  paths: ["Paths, one a line", "/home/me/pictures"], urls: ["Addresses, one a line", "https://example.org/picture.jpg"],
  site: ["Board"], tags: ["Tags", "long_hair, solo"], rating: ["Rating"], limit: ["At most, pictures"], server: ["Another server of this kind", "https://"],
  user: ["Your name there"], seconds: ["Seconds apart, at least"], frames: ["Frames of each video, at most"],
  project: ["Project"], dataset: ["Name on the hub", "owner/name"], author: ["Author", "who made them"], licence: ["Licence", "CC BY 4.0"], consent: ["Consent", "agreed by mail in May"],
};
const SITES = { danbooru: "Danbooru", gelbooru: "Gelbooru", safebooru: "Safebooru", e621: "e621", moebooru: "Moebooru (yande.re)" };
const shownSite = (name) => SITES[name] || name;

/** An input for one setting; `read()` gives its value. */
function field(setting, { projects = [] } = {}) {
  const [title, placeholder] = WORDS[setting.name] || [setting.title];
  const id = `ls-source-${setting.name}`;
  const common = { id, title: setting.doc, placeholder: placeholder || null, spellcheck: "false", autocomplete: "off" };
  let input, read;
  if (setting.name === "project") {
    input = h("select.ls-input", common, projects.map((one) => h("option", { value: one.slug }, `${one.name} (${plural(one.pictures, "picture")})`)));
  } else if (setting.type === "choice") {
    input = h("select.ls-input", common, setting.choices.map((choice) => h("option", { value: choice }, setting.name === "site" ? shownSite(choice) : choice[0].toUpperCase() + choice.slice(1))));
    input.value = setting.default;
  } else if (setting.type === "list") {
    input = h("textarea.ls-input.ls-lines", { ...common, rows: "5", wrap: "off" });
    read = () => input.value.split(/\r?\n/).map((line) => line.trim()).filter(Boolean);
  } else if (["int", "float"].includes(setting.type)) {
    input = h("input.ls-input", { ...common, type: "number", min: setting.minimum, max: setting.maximum, step: setting.type === "int" ? "1" : "any", value: String(setting.default) });
    read = () => (input.value === "" ? setting.default : Number(input.value));
  } else {
    input = h("input.ls-input", { ...common, type: "text", value: setting.default || "" });
  }
  const problem = h("div.ls-field-problem", { role: "alert" });
  const node = h("div.ls-field", null, h("label.ls-muted", { for: id }, title), input, problem);
  input.addEventListener("input", () => { problem.textContent = ""; node.classList.remove("bad"); });
  return { name: setting.name, node, input, read: read || (() => input.value.trim()), tell(text) { problem.textContent = text; node.classList.add("bad"); input.focus(); } };
}

/**
 * The panel. `chooseFiles`, `chooseFolder`, `chooseVideos` open dialogs; `started(job)` is called after a source was
 * set to work. Returns {node, load(), show(kind), offer(wanted), addresses(lines), uploaded(found)}.
 */
export function createSources({ chooseFiles, chooseFolder, chooseVideos, started, sampleButton }) {
  const node = h("section.ls-sources");
  let kind = "files", project = "", parts = {}, thanks = [];
  const sampleBox = h("div.ls-row");

  async function load() {
    if (!state.project || project === state.project) return;
    const asked = state.project;
    const found = await call("gathering.sources", { project: asked });
    if (asked !== state.project) return;
    project = asked;
    build(found);
  }

  function build({ settings, owner, projects, background }) {
    const known = new Map(settings.map((setting) => [setting.name, setting]));
    const names = Object.keys(SOURCES).filter((name) => owner || name !== "path");
    if (!names.includes(kind)) kind = "files";
    const tiles = names.map((name) => h("button.ls-from", { type: "button", role: "radio", id: `ls-from-${name}`, "data-kind": name, title: SOURCES[name].about, onclick: () => show(name) }, glyph(name), h("span", null, SOURCES[name].title)));
    parts = {};
    for (const name of names) {
      const fields = (FIELDS[name] || []).map((one) => field(known.get(one), { projects }));
      parts[name] = { fields, node: h("div.ls-source", { "data-kind": name }, h("p.ls-muted", null, SOURCES[name].about)) };
      parts[name].node.append(...body(name, fields, projects, owner));
    }
    thanks = THANKS.map((name) => field(known.get(name)));
    for (const one of thanks) {
      one.input.value = sessionStorage.getItem(`lora-studio-${project}-${one.name}`) || "";
      one.input.addEventListener("input", () => { sessionStorage.setItem(`lora-studio-${project}-${one.name}`, one.input.value); hint(); });
    }
    const said = h("span.ls-faint.ls-ellipsis");
    const hint = () => { said.textContent = thanks.map((one) => one.read()).filter(Boolean).join(" · "); };
    hint();
    const colour = h("input", { type: "color", id: "ls-background-colour", value: background });
    colour.addEventListener("change", () => call("gathering.background", { project, colour: colour.value }).then(() => reload(true), () => {}));
    const group = h("div.ls-froms", { role: "radiogroup", "aria-label": "Where from?" }, tiles);
    group.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 4, ArrowUp: -4 }[event.key];
      if (!move) return;
      event.preventDefault(); event.stopPropagation();
      const next = names[Math.min(names.length - 1, Math.max(0, names.indexOf(kind) + move))];
      show(next);
      document.getElementById(`ls-from-${next}`).focus();
    });
    fill(node, h("h3", { id: "ls-where" }, "Where from?"), group, names.map((name) => parts[name].node),
      h("details.ls-more", { id: "ls-thanks" }, h("summary", null, "Author, licence, consent ", said),
        h("p.ls-muted", null, "Written down for all that is added from now on, where the source names none."), thanks.map((one) => one.node)),
      h("details.ls-more", { id: "ls-background" }, h("summary", null, "Transparent pictures"), h("div.ls-inline", null, h("label.ls-muted", { for: "ls-background-colour" }, "What lies under them, in the whole project"), colour)));
    show(kind);
  }

  function body(name, fields, projects, owner) {
    const by = Object.fromEntries(fields.map((one) => [one.name, one]));
    const row = (...names) => h("div.ls-pair", null, names.map((one) => by[one].node));
    const start = () => SOURCES[name].go && h("div.ls-row.end", null, button(SOURCES[name].go, () => run(name), { kind: "primary", id: `ls-go-${name}` }));
    if (name === "files") {
      return [h("div.ls-drop-small", null, icon("drop", 22), h("b", null, "Drop them anywhere on this page"), h("span.ls-muted", null, "or paste with ", h("kbd", null, "Ctrl"), " ", h("kbd", null, "V")),
        h("div.ls-row", null, button("Choose files", chooseFiles, { icon: "image" }), button("Choose a folder", chooseFolder, { icon: "folder" }))), sampleBox];
    }
    if (name === "video") {
      const path = owner ? field({ name: "paths", title: "Paths", type: "list", doc: "Video files of this machine, one a line." }) : null;
      if (path) { path.input.id = "ls-video-paths"; path.input.rows = 2; path.node.querySelector("label").htmlFor = "ls-video-paths"; fields.push(path); }
      return [h("div.ls-drop-small", null, icon("drop", 22), h("b", null, "Drop a video anywhere on this page"), h("div.ls-row", null, button("Choose videos", chooseVideos, { icon: "play" }))), row("seconds", "frames"),
        path && h("details.ls-more", null, h("summary", null, "Or by its path on this machine"), path.node, h("div.ls-row.end", null, button("Take frames", () => run("video"), { kind: "primary", id: "ls-go-video" })))].filter(Boolean);
    }
    if (name === "booru") {
      return [row("site", "rating"), by.tags.node, row("limit", "user"), keyBox(by), h("details.ls-more", null, h("summary", null, "Another server"), by.server.node), start()];
    }
    if (name === "project" && !projects.length) return [h("p.ls-muted", null, "There is no other project yet.")];
    if (name === "urls") by.urls.node.append(count(by.urls));
    return [...fields.map((one) => one.node), start()];
  }

  function count(lines) {
    const said = h("span.ls-faint", { "aria-live": "polite" });
    const draw = () => { const all = lines.read().length; said.textContent = all ? plural(all, "line") : ""; };
    lines.input.addEventListener("input", draw);
    return said;
  }

  /** The key for a board: it goes to Python once and never comes back. */
  function keyBox({ site, server, user }) {
    const box = h("details.ls-more", { id: "ls-key" });
    const summary = h("summary", null, "API key");
    const where = () => ({ site: site.read(), server: server.read() });
    const inside = h("div.ls-stack");
    const who = h("input.ls-input", { type: "text", id: "ls-key-user", placeholder: "user name or number", "aria-label": "User", autocomplete: "off" });
    const secret = h("input.ls-input", { type: "password", id: "ls-key-secret", placeholder: "key", "aria-label": "Key", autocomplete: "new-password" });
    const draw = ({ host, user: stored }) => {
      fill(summary, "API key ", h("span.ls-faint", null, stored ? `stored for ${stored}` : site.read() === "gelbooru" && !server.read() ? "needed here" : "only if the board asks for one"));
      fill(inside, h("p.ls-muted", null, stored ? `A key of ${stored} is stored for ${host}.` : `From your account's settings at ${host}. It is kept on this machine, readable by its user only, and sent to ${host} alone.`),
        stored ? h("div.ls-row", null, button("Forget the key", async () => draw(await call("gathering.forget_key", where())), { icon: "trash" }))
          : h("div.ls-key-row", null, who, secret, button("Store", async () => { draw(await call("gathering.put_key", { ...where(), user: who.value, key: secret.value })); who.value = secret.value = ""; })));
    };
    const ask = async () => { try { draw(await call("gathering.key", where(), { quiet: true })); } catch (error) { if (!(error instanceof Failure)) throw error; fill(inside, h("p.ls-muted", null, error.message)); } };
    site.input.addEventListener("change", ask);
    server.input.addEventListener("change", ask);
    user.node.title = "Danbooru and e621 ask for it, so that they can write to whoever causes trouble.";
    fill(box, summary, inside);
    box.ask = ask;
    return box;
  }

  function show(name) {
    kind = name;
    for (const [one, { node: shown }] of Object.entries(parts)) shown.hidden = one !== name;
    for (const tile of node.querySelectorAll(".ls-from")) {
      const current = tile.dataset.kind === name;
      tile.classList.toggle("current", current);
      tile.setAttribute("aria-checked", String(current));
      tile.tabIndex = current ? 0 : -1;
    }
    const key = parts[name] && parts[name].node.querySelector("#ls-key");
    if (key) key.ask();
  }

  const values = (name) => Object.fromEntries(parts[name] ? parts[name].fields.map((one) => [one.name, one.read()]) : []);
  const signed = () => Object.fromEntries(thanks.map((one) => [one.name, one.read()]));

  async function run(name) {
    const source = { kind: name === "path" ? "paths" : name, ...values(name), ...signed() };
    try {
      await call("gathering.start", { project: state.project, source }, { quiet: true });
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      const [, which, text] = /^(\w+): (.*)/.exec(error.message) || [];
      const found = parts[name].fields.find((one) => one.name === which);
      if (found) found.tell(text); else toast(error.message, { remedy: error.remedy, level: "bad" });
      return;
    }
    for (const one of parts[name].fields) if (["paths", "urls"].includes(one.name)) { one.input.value = ""; one.input.dispatchEvent(new Event("input")); }
    await started();
  }

  return {
    node, load, show,
    offer: (wanted) => fill(sampleBox, wanted && sampleButton()),
    addresses(lines) {
      if (!parts.urls) return;
      show("urls");
      const [urls] = parts.urls.fields;
      urls.input.value = [...new Set([...urls.read(), ...lines])].join("\n");
      urls.input.dispatchEvent(new Event("input"));
    },
    /** What to say with files that were dropped, chosen or pasted. */
    uploaded(found) {
      const film = found.length > 0 && found.every(({ name }) => VIDEO.test(name));
      if (film) { const { seconds, frames } = values("video"); return { kind: "video", seconds, frames, ...signed() }; }
      return { kind: "paths", ...signed() };
    },
  };
}
