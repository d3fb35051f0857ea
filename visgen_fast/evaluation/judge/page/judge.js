// Asks for a pair, shows it, and sends the answer. Answers wait in local storage until the server has confirmed them.
"use strict";

const find = (name) => document.querySelector(`[data-testid="${name}"]`);
const [field, left, right, tie, skip, undo, progress] =
  ["rater", "left", "right", "tie", "skip", "undo", "progress"].map(find);
const message = document.querySelector(".message");
const keys = { ArrowLeft: left, ArrowRight: right, ArrowDown: tie, s: skip, S: skip, z: undo, Z: undo };
const token = new URLSearchParams(location.search).get("token");
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// Of this study, in this browser.
const stored = (name) => `judge.${document.body.dataset.study}.${name}`;
const load = (name, otherwise) => JSON.parse(localStorage.getItem(stored(name))) ?? otherwise;
const save = (name, value) => localStorage.setItem(stored(name), JSON.stringify(value));

let rater = load("rater", "");
let shown = null; // the pair that can be answered now
let turn = 0; // grows with every rater, so that what an earlier one waits for is dropped

function address(path, query = {}) {
  const words = new URLSearchParams(token === null ? query : { ...query, token });
  return `${path}?${words}`;
}

// The server's answer; tries again, for as long as it takes, while there is none.
async function ask(path, query, options) {
  for (let tries = 0; ; tries += 1) {
    try {
      const response = await fetch(address(path, query), { ...options, signal: AbortSignal.timeout(10000) });
      if (response.status < 500) {
        message.textContent = "";
        return { ok: response.ok, content: await response.json() };
      }
    } catch { /* the server does not answer, or not in full */ }
    const waiting = load("waiting", []).length;
    message.textContent = `The server does not answer; trying again. ${waiting} of your answers wait here, and are safe.`;
    await pause(Math.min(0.25 * 2 ** tries, 3));
  }
}

let sending = Promise.resolve();

// Sends all answers that wait, in their order, one sender at a time.
function send() {
  sending = sending.then(async () => {
    for (let waiting = load("waiting", []); waiting.length; ) {
      const vote = waiting[0];
      const { ok, content } = await ask("/api/vote", {}, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(vote),
      });
      waiting = load("waiting", []).filter((one) => one.id !== vote.id);
      save("waiting", waiting);
      if (!ok) { message.textContent = `An answer was refused: ${content.error}`; await pause(2); }
    }
  });
  return sending;
}

function enable(on) {
  for (const button of [left, right, tie, skip]) button.disabled = !on;
  undo.disabled = load(`given.${rater}`, []).length === 0;
}

async function picture(button, name) {
  const image = button.firstElementChild;
  for (let tries = 0; ; tries += 1) {
    image.src = address(`/picture/${name}`, tries ? { tries } : {});
    try { return await image.decode(); } catch { await pause(Math.min(0.25 * 2 ** tries, 3)); }
  }
}

// Shows a pair, and counts; the pair can be answered when both pictures are there.
async function show(pair, done, total) {
  const mine = turn;
  if (pair.pair !== null) {
    await Promise.all([picture(left, pair.left), picture(right, pair.right)]);
    if (mine !== turn) return;
    shown = pair;
  } else {
    for (const button of [left, right]) button.firstElementChild.removeAttribute("src");
  }
  enable(shown !== null);
  progress.textContent = `${done} of ${total}${shown === null ? ". That was all: thank you!" : ""}`;
}

async function next() {
  const mine = turn;
  await send();
  const { ok, content } = await ask("/api/next", { rater });
  if (mine !== turn) return;
  if (ok) await show(content, content.done, content.total);
  else message.textContent = content.error;
}

function put(pair, choice) {
  const random = crypto.getRandomValues(new Uint8Array(16));
  const id = Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
  save("waiting", [...load("waiting", []), { id, rater, pair: pair.pair, left: pair.left, choice }]);
}

async function answer(choice) {
  if (shown === null) return;
  const pair = shown;
  shown = null;
  save(`given.${rater}`, [...load(`given.${rater}`, []), { pair: pair.pair, left: pair.left, right: pair.right }]);
  put(pair, choice);
  enable(false);
  await next();
}

async function takeBack() {
  const given = load(`given.${rater}`, []);
  if (!given.length || undo.disabled) return;
  const [mine, pair] = [turn, given.pop()];
  shown = null;
  save(`given.${rater}`, given);
  put(pair, "undo");
  enable(false);
  undo.disabled = true;
  await send();
  const { ok, content } = await ask("/api/next", { rater });
  if (ok && mine === turn) await show(pair, content.done, content.total);
}

function begin() {
  turn += 1;
  shown = null;
  field.value = rater;
  enable(false);
  if (rater) next();
}

document.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  rater = field.value.trim();
  save("rater", rater);
  field.blur();
  begin();
});
left.addEventListener("click", () => answer("left"));
right.addEventListener("click", () => answer("right"));
tie.addEventListener("click", () => answer("tie"));
skip.addEventListener("click", () => answer("skip"));
undo.addEventListener("click", takeBack);
document.addEventListener("keydown", (event) => {
  const button = keys[event.key];
  if (!button || event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.target === field) return;
  event.preventDefault();
  button.click();
});
begin();
