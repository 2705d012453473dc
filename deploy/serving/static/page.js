// The page of the server: an image goes to one or two of its models, their masks come back and are compared.
const at = (id) => document.getElementById(id);
const labels = new Map();
let token = "";
let picture = null;
let run = 0;

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  if (answer.status === 401) {
    at("gate").hidden = false;
    throw new Error(token ? "the server does not take this token" : "this server asks for its bearer token");
  }
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error ?? `the server answered ${answer.status}`);
}

async function start() {
  try {
    const index = await (await ask("/v2/repository/index", { method: "POST" })).json();
    const names = [...new Set(index.map((one) => one.name))];
    for (const name of names) {
      labels.set(name, await (await ask(`/v2/models/${encodeURIComponent(name)}/labels`)).json());
    }
    at("first").replaceChildren(...names.map(option));
    at("second").replaceChildren(new Option("nothing", ""), ...names.map(option));
    at("gate").hidden = true;
    say(names.length === 1 ? "One model is ready." : `${names.length} models are ready.`);
    if (picture) await show();
  } catch (error) {
    say(error.message, true);
  }
}

function option(name) {
  const { target } = labels.get(name);
  return new Option(name.endsWith(target) ? name : `${name} (${target})`, name);
}

async function take(file) {
  if (!file) return;
  picture = file;
  at("name").textContent = file.name;
  await show();
}

// What the server says of itself, and the rest of the time: the network both ways, and the mask.
function timing(answer, total) {
  const told = answer.headers.get("Server-Timing") ?? "";
  const part = (name) => Number(told.match(new RegExp(`\\b${name};dur=([\\d.]+)`))?.[1] ?? 0);
  const [decode, queue, compute] = [part("decode"), part("queue"), part("compute")];
  return { decode, queue, compute, rest: Math.max(0, total - decode - queue - compute), total };
}

async function segment(name) {
  const from = performance.now();
  const answer = await ask(`/v2/models/${encodeURIComponent(name)}/segment`, { method: "POST", body: picture });
  const blob = await answer.blob();
  const times = timing(answer, performance.now() - from);
  const mask = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const [canvas, pixels] = pixelsOf(mask);
  const { classes, palette } = labels.get(name);
  const byColour = new Map(palette.map(([r, g, b], index) => [(r << 16) | (g << 8) | b, index]));
  const map = new Uint8Array(pixels.length / 4).fill(255);
  const counts = new Array(classes.length).fill(0);
  for (let at = 0; at < map.length; at += 1) {
    const index = byColour.get((pixels[4 * at] << 16) | (pixels[4 * at + 1] << 8) | pixels[4 * at + 2]);
    if (index !== undefined) {
      map[at] = index;
      counts[index] += 1;
    }
  }
  return { name, classes, palette, canvas, map, counts, times };
}

function pixelsOf(bitmap) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return [canvas, context.getImageData(0, 0, bitmap.width, bitmap.height).data];
}

async function show() {
  run += 1;
  const mine = run;
  const wanted = [at("first").value, at("second").value].filter(Boolean);
  say("The server is at work …");
  try {
    // One after the other, so that neither waits for the other in the times shown.
    const results = [];
    for (const name of wanted) results.push(await segment(name));
    // Orientation as in the file: the server's mask knows nothing of a camera's note on it.
    const photo = await createImageBitmap(picture, { imageOrientation: "none" }).catch(() => null);
    if (mine !== run) return;
    at("panes").replaceChildren(...results.map((result) => pane(result, photo)));
    compare(results);
    fade();
    say(`Done: ${at("name").textContent}${photo ? "" : ", which this browser cannot show itself"}.`);
  } catch (error) {
    if (mine === run) say(error.message, true);
  }
}

function pane({ name, classes, palette, canvas, counts, times }, photo) {
  const made = at("pane").content.cloneNode(true).firstElementChild;
  made.querySelector("h2").textContent = name;
  const [below, mask] = made.querySelectorAll("canvas");
  [below.width, below.height] = [mask.width, mask.height] = [canvas.width, canvas.height];
  if (photo) below.getContext("2d").drawImage(photo, 0, 0, canvas.width, canvas.height);
  mask.getContext("2d").drawImage(canvas, 0, 0);
  const all = counts.reduce((sum, count) => sum + count, 0);
  const order = counts.map((_, index) => index).filter((index) => counts[index]);
  order.sort((one, other) => counts[other] - counts[one]);
  const share = (index) => `${((100 * counts[index]) / all).toFixed(1)} %`;
  below.setAttribute("aria-label", `The image with the mask of ${name}: ` +
    order.slice(0, 4).map((index) => `${classes[index]} ${share(index)}`).join(", "));
  made.querySelector("tbody").replaceChildren(...order.map((index) => {
    const row = document.createElement("tr");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.backgroundColor = `rgb(${palette[index].join(" ")})`;
    const number = row.insertCell();
    number.append(swatch, classes[index]);
    const cell = row.insertCell();
    cell.className = "number";
    cell.textContent = share(index);
    return row;
  }));
  for (const part of ["decode", "queue", "compute", "rest"]) {
    const piece = document.createElement("i");
    piece.className = part;
    piece.style.width = `${(100 * times[part]) / times.total}%`;
    made.querySelector(".bar").append(piece);
  }
  const ms = (value) => `${value.toFixed(1)} ms`;
  made.querySelector(".times").textContent = `${ms(times.total)} in all: queue ${ms(times.queue)}, ` +
    `compute ${ms(times.compute)}, decoding ${ms(times.decode)}, upload, mask and download ${ms(times.rest)}`;
  return made;
}

function compare([one, other]) {
  at("agreement").hidden = !other;
  if (!other) return;
  const same = new Set(one.classes).size === other.classes.length &&
    one.classes.every((name, index) => name === other.classes[index]);
  if (!same) {
    at("agreement").textContent = "These models know different classes: no agreement can be told.";
    return;
  }
  let equal = 0;
  for (let at = 0; at < one.map.length; at += 1) equal += one.map[at] === other.map[at];
  const share = ((100 * equal) / one.map.length).toFixed(2);
  at("agreement").textContent = `${one.name} and ${other.name} agree on ${share} % of the pixels.`;
}

function fade() {
  at("percent").textContent = `${at("opacity").value} %`;
  for (const mask of document.querySelectorAll(".mask")) mask.style.opacity = at("opacity").value / 100;
}

at("controls").addEventListener("submit", (event) => event.preventDefault());
at("file").addEventListener("change", () => take(at("file").files[0]));
for (const id of ["first", "second"]) at(id).addEventListener("change", () => picture && show());
at("opacity").addEventListener("input", fade);
const enter = () => {
  token = at("token").value.trim();
  start();
};
at("enter").addEventListener("click", enter);
at("token").addEventListener("keydown", (event) => event.key === "Enter" && enter());
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  take(event.dataTransfer.files[0]);
});
start();
