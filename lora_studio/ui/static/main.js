// Loads the parts. Each registers itself under the name that its gr.HTML element mounts.
import { go, mount, toast } from "./core.js";
import { refresh } from "./shell.js";
import "./conception.js";
import "./gathering.js";
import "./curation.js";
import "./tagging.js";
import "./training.js";
import "./testing.js";
import "./formhelp.js";
import "./settings.js";

/** What a gradio handler had to say: a toast, and where to go (components/say.py). */
async function hear({ text, remedy, level, project, step }) {
  if (text) toast(text, { remedy, level, seconds: text === "Saved" ? 1.5 : remedy.length > 120 ? 12 : 0 });
  if (project) { await refresh(); go(project, step); }
  if (level !== "bad") window.dispatchEvent(new CustomEvent("ls:changed"));
}

/** Data that a gradio handler wrote for a script (components/part.py). */
const pass = (name, data) => window.dispatchEvent(new CustomEvent(`ls:${name}`, { detail: data }));

window.LS = { mount, hear, pass };
window.dispatchEvent(new CustomEvent("ls:ready"));
