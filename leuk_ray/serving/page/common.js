"use strict";
const $ = (id) => document.getElementById(id);
let about = {}, busy = false; // about: name -> model

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

// Of `several` images the answer may be the errors of single ones; any other error is thrown.
async function ask(path, options = {}, several = false) {
  const headers = $("key").value ? { "X-API-Key": $("key").value } : {};
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    $("key-field").hidden = false;
    $("key").focus();
    throw new Error("This server wants a key: type it above, then drop the files again.");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok && !(several && body.errors)) throw new Error(body.detail || `The server answered ${response.status}.`);
  return body;
}

async function learn() {
  let found;
  try { found = await ask("v1/models"); } catch (error) { return; }
  about = Object.fromEntries(found.models.map((entry) => [entry.name, entry]));
  $("models").replaceChildren(...found.models.map((entry) => element("option", entry.name)));
  if (found.default) $("models").value = found.default;
  $("models-field").hidden = found.models.length < 2;
  tell();
}

// A page's own: `send(files)`, and `tell()`, what it says of the model that is chosen.
function start() {
  $("files").addEventListener("change", () => send([...$("files").files]));
  $("models").addEventListener("change", tell);
  $("key").addEventListener("change", learn);
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop") send([...event.dataTransfer.files]);
    });
  }
  learn();
}
