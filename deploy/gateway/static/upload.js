// Uploads by tus 1.0.0: in chunks, three files at a time, going on where a broken connection stopped.
"use strict";

const TUS = "/upload/tus/";
const CHUNK = 16 * 1024 * 1024; // what is lost at most when a proxy on the way keeps a broken chunk back
const AT_ONCE = 3;
const LONGEST_WAIT_S = 60;
const REMEMBERED = "media-pipeline-upload:";

const $ = (id) => document.getElementById(id);
const queue = [];
const entries = [];
let running = 0;
let awake = null;

class Hopeless extends Error {} // trying again will not help

// -- choosing ----------------------------------------------------------------------------------------------------

// Litter of desktops, and what the server would refuse anyway.
const skipped = (path) => path.split("/").some((part) => /^[.~]/.test(part) || /^(thumbs\.db|desktop\.ini|__macosx)$/i.test(part));

// What the watcher of the inbox leaves alone (media_pipeline/media/walk.py).
const unfinished = (path) => /(\.(part|partial|crdownload|download|filepart|opdownload|tmp|temp)|~)$/i.test(path);

function add(file, path) {
  if (skipped(path)) return;
  const item = document.createElement("li");
  const row = document.createElement("div");
  row.className = "row";
  const name = document.createElement("span");
  name.className = "name";
  name.textContent = path;
  const state = document.createElement("span");
  state.className = "state";
  row.append(name, state);
  const bar = document.createElement("progress");
  bar.max = 1;
  bar.value = 0;
  bar.setAttribute("aria-label", path);
  item.append(row, bar);
  $("list").append(item);
  const entry = { file, path, item, state, bar, sent: 0, status: "waiting" };
  entries.push(entry);
  if (unfinished(path)) {
    fail(entry, new Error("looks half-downloaded by its name; give it its real one"));
  } else {
    queue.push(entry);
    show(entry, "waits");
  }
  next();
}

async function addDropped(items) {
  // Handles are gone after the first await: all are taken at once.
  const roots = [...items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
  for (const root of roots) await walk(root);
}

async function walk(entry) {
  if (entry.isFile) {
    const file = await new Promise((good, bad) => entry.file(good, bad)).catch(() => null);
    if (file) add(file, entry.fullPath.replace(/^\//, ""));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A reader gives a hundred at a time, and none at the end.
    const some = await new Promise((good, bad) => reader.readEntries(good, bad)).catch(() => []);
    if (!some.length) return;
    for (const child of some) await walk(child);
  }
}

// -- sending -----------------------------------------------------------------------------------------------------

function next() {
  while (running < AT_ONCE && queue.length) {
    running += 1;
    const entry = queue.shift();
    upload(entry)
      .catch((error) => fail(entry, error))
      .finally(() => {
        running -= 1;
        next();
        summarize();
      });
  }
  summarize();
}

// The same file in the same place: name, size and time of its last change.
const keyOf = (entry) => `${REMEMBERED}${entry.path}|${entry.file.size}|${entry.file.lastModified}`;

const memory = {
  get: (key) => { try { return localStorage.getItem(key); } catch { return null; } },
  set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* a full or forbidden memory */ } },
  drop: (key) => { try { localStorage.removeItem(key); } catch { /* as above */ } },
};

async function upload(entry) {
  entry.status = "running";
  entry.item.className = "";
  entry.bar.hidden = false;
  const key = keyOf(entry);
  let address = memory.get(key);
  let offset = null;
  let waited = 1;
  for (;;) {
    try {
      if (address && offset === null) {
        offset = await where(address, entry.file.size);
        if (offset === null) address = null;
      }
      if (!address) {
        address = await begin(entry);
        memory.set(key, address);
        offset = 0;
      }
      while (offset < entry.file.size) {
        offset = await send(entry, address, offset);
        waited = 1;
      }
      break;
    } catch (error) {
      if (error instanceof Hopeless) {
        memory.drop(key);
        throw error;
      }
      // Where it really stands is asked anew.
      offset = null;
      show(entry, `${error.message}; again in ${waited} s`);
      await pause(waited * 1000);
      waited = Math.min(LONGEST_WAIT_S, waited * 2);
    }
  }
  memory.drop(key);
  entry.status = "done";
  entry.sent = entry.file.size;
  entry.item.className = "done";
  entry.bar.hidden = true;
  show(entry, "✓ complete");
}

// An entry without a place in the list of those that wait is one that failed for good.
function fail(entry, error) {
  entry.status = "failed";
  entry.item.className = "failed";
  entry.bar.hidden = true;
  show(entry, error.message);
}

async function begin(entry) {
  const bytes = new TextEncoder().encode(entry.path.normalize("NFC"));
  const encoded = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  const answer = await request("POST", TUS, {
    "Upload-Length": String(entry.file.size),
    "Upload-Metadata": `filename ${encoded}`,
  });
  await expect(answer, 201);
  return answer.getResponseHeader("Location");
}

async function where(address, size) {
  const answer = await request("HEAD", address, {});
  if ([403, 404, 410].includes(answer.status)) return null;
  await expect(answer, 200);
  return Number(answer.getResponseHeader("Upload-Length")) === size ? Number(answer.getResponseHeader("Upload-Offset")) : null;
}

async function send(entry, address, offset) {
  const blob = entry.file.slice(offset, offset + CHUNK);
  try {
    // A file that was changed or taken away since it was chosen cannot be read; a request would say "network" only.
    await blob.slice(0, 1).arrayBuffer();
  } catch {
    throw new Hopeless("the file cannot be read any more; choose it again");
  }
  const answer = await request(
    "PATCH", address,
    { "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" },
    blob, (loaded) => progress(entry, offset + loaded),
  );
  await expect(answer, 204);
  const now = Number(answer.getResponseHeader("Upload-Offset"));
  progress(entry, now);
  return now;
}

function request(method, address, headers, body, onProgress) {
  return new Promise((good, bad) => {
    const call = new XMLHttpRequest(); // fetch does not tell how much has been sent
    call.open(method, address);
    call.setRequestHeader("Tus-Resumable", "1.0.0");
    for (const [name, value] of Object.entries(headers)) call.setRequestHeader(name, value);
    let watchdog = null;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => call.abort(), 120000); // nothing has moved: the connection is dead
    };
    alive();
    call.upload.onprogress = (event) => { alive(); if (onProgress) onProgress(event.loaded); };
    call.onload = () => { clearTimeout(watchdog); good(call); };
    call.onerror = call.onabort = () => { clearTimeout(watchdog); bad(new Error("no connection to the server")); };
    call.send(body ?? null);
  });
}

async function expect(answer, status) {
  if (answer.status === status) return;
  const text = (answer.getResponseHeader("Content-Type") || "").startsWith("text/plain") ? answer.responseText.trim() : "";
  const said = text || `the server answered ${answer.status}`;
  // A full disk can be mended, a restarting service comes back; a wrong name stays wrong.
  if ([400, 403, 405, 412, 413, 415].includes(answer.status)) throw new Hopeless(said);
  if (answer.status === 401) throw new Hopeless("you are not signed in any more; load this page again");
  throw new Error(said);
}

// Until the time is over, or the network is back.
const pause = (ms) => new Promise((go) => {
  const end = () => { clearTimeout(timer); removeEventListener("online", end); go(); };
  const timer = setTimeout(end, ms);
  addEventListener("online", end);
});

// -- showing -----------------------------------------------------------------------------------------------------

function show(entry, text) { entry.state.textContent = text; }

function progress(entry, sent) {
  entry.sent = sent;
  entry.bar.value = entry.file.size ? sent / entry.file.size : 1;
  show(entry, `${size(sent)} of ${size(entry.file.size)}`);
  summarize();
}

function size(bytes) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

function summarize() {
  const box = $("summary");
  box.hidden = $("actions").hidden = !entries.length;
  const count = (status) => entries.filter((entry) => entry.status === status).length;
  const [done, failed] = [count("done"), count("failed")];
  const open = entries.length - done - failed;
  $("retry").hidden = !failed;
  const total = entries.reduce((sum, entry) => sum + entry.file.size, 0);
  const sent = entries.reduce((sum, entry) => sum + entry.sent, 0);
  box.className = open ? "" : "done";
  box.textContent = "";
  const line = document.createElement("p");
  line.textContent = `${done} of ${entries.length} files are in the inbox, ${size(sent)} of ${size(total)}` + (failed ? `; ${failed} failed` : "");
  box.append(line);
  if (!open && done) {
    const then = document.createElement("p");
    const link = document.createElement("a");
    link.href = "/runs";
    link.textContent = "the runs in Dagster";
    then.append("They are taken within a minute and analysed one batch after the other; you may close this page. Watch ", link, ".");
    box.append(then);
  }
  stayAwake(open > 0);
}

// A laptop that falls asleep ends every upload; where the browser can, it is asked not to.
async function stayAwake(wanted) {
  if (wanted && !awake && navigator.wakeLock) awake = await navigator.wakeLock.request("screen").catch(() => null);
  if (!wanted && awake) { awake.release(); awake = null; }
}

// -- wiring ------------------------------------------------------------------------------------------------------

const drop = $("drop");
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.remove("over"); });
}
document.addEventListener("drop", (event) => addDropped(event.dataTransfer.items));
for (const id of ["files", "folder"]) {
  $(id).addEventListener("change", (event) => {
    for (const file of event.target.files) add(file, file.webkitRelativePath || file.name);
    event.target.value = "";
  });
}
$("retry").addEventListener("click", () => {
  for (const entry of entries.filter((one) => one.status === "failed")) {
    entry.status = "waiting";
    queue.push(entry);
  }
  next();
});
$("clear").addEventListener("click", () => {
  for (const entry of entries) if (entry.status === "done") entry.item.hidden = true;
});
addEventListener("beforeunload", (event) => { if (entries.some((one) => ["waiting", "running"].includes(one.status))) event.preventDefault(); });
request("OPTIONS", TUS, {}).then((answer) => {
  const most = Number(answer.getResponseHeader("Tus-Max-Size"));
  if (most) $("limit").textContent = size(most);
}, () => {});
