// The page's way to the server: the front end of the notebook, with HTTP in place of the widget's channel.
import { createChat } from "/static/chat.js";

const [words, styles] = await Promise.all([
  fetch("/static/words.json").then((file) => file.json()), fetch("/static/chat.css").then((file) => file.text())]);
let underWay = null; // the message whose answer is being read, whether that has begun, and the way to end it
let unsent = null; // a message that never reached the server: shown with what became of it, and kept on this side only
let later = 0;
const KEPT = "csproto-conversation"; // to take the conversation up again after the server was restarted
const nothing = (ok) => ({ messages: [], info: { customer: "", conversation: "", customers: [], busy: false, engine: { ok, model: "" } } });
let shown = nothing(false); // the server's last word
let ordersOf = null; // whose orders are shown
let tickets = ""; // those of the conversation, as JSON
let nextLook = 0;
const LOOK = 5000; // ms between two looks at tickets that are not closed

const host = {
  kind: "page",
  words,
  styles,
  language: localStorage.getItem("csproto-language") || "",
  setLanguage: (language) => localStorage.setItem("csproto-language", language),
  speaks(language) {
    document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
    document.title = words[language].title;
  },
  paints: (theme) => { document.documentElement.dataset.theme = theme; },
  send: (command) => carryOut(command).catch(() => fail("network")),
};
const chat = createChat(document.getElementById("chat"), host);
const fail = (code) => chat.receive({ type: "problem", code });
const step = (step) => chat.receive({ type: "step", step });
await refresh();

async function carryOut(command) {
  if (command.type === "send") await ask(command.text);
  else if (command.type === "stop") await stop();
  else if (command.type === "rate") show(await call("/api/session/rate", { id: command.id, rating: command.rating, why: command.why }));
  else if (command.type === "new") await begin("/api/session", { customer: command.customer ?? null });
  else if (command.type === "open") await begin("/api/session", { conversation: command.conversation });
  else if (command.type === "reset") await begin("/api/demo/reset", {});
  else if (command.type === "conversations") await tell("conversations");
  else if (command.type === "check") await refresh();
  else if (command.type === "export") await download(command.form, command.language);
}

function post(path, body, signal = null) {
  const headers = { "Content-Type": "application/json" };
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

async function call(path, body) { return (await passed(await post(path, body)))?.json(); }

async function passed(response) {
  if (response.ok) return response;
  if (response.status === 401 || response.status === 404) await refresh(); // what is shown may be another customer's
  return fail((await response.json()).error);
}

async function refresh() {
  if (underWay) return;
  const response = await fetch("/api/session").catch(() => null);
  if (response?.status === 401) {
    unsent = null;
    show(nothing(true));
    return fail((await response.json()).error);
  }
  const state = response?.ok ? await response.json().then(resumed).catch(() => null) : null;
  if (!underWay) show(state || { ...shown, info: { ...shown.info, busy: false, engine: { ...shown.info.engine, ok: false } } });
}

async function resumed(state) {
  const kept = localStorage.getItem(KEPT);
  if (state.info.conversation || !kept) return state;
  const response = await post("/api/session", JSON.parse(kept));
  if (response.ok) return response.json();
  if (response.status === 404) localStorage.removeItem(KEPT);
  return state;
}

async function begin(path, wish) {
  localStorage.removeItem(KEPT);
  const state = await call(path, wish);
  if (state) unsent = ordersOf = null;
  show(state);
}

async function tell(name) { // the customer's orders or conversations; while they cannot be read, the old ones stay
  const response = await fetch(`/api/${name}`).catch(() => null);
  const told = response?.ok ? await response.json() : null;
  if (told) chat.receive({ type: name, [name]: told });
  return told;
}

async function follow() { // what the shop's staff do with the tickets, for as long as one waits and the page is seen
  clearTimeout(nextLook);
  const told = document.hidden ? JSON.parse(tickets || "[]") : await tell("tickets") || [];
  if (tickets && tickets !== JSON.stringify(told)) tell("orders"); // they say which tickets are open
  tickets = JSON.stringify(told);
  if (told.some(({ state }) => state !== "closed")) nextLook = setTimeout(follow, LOOK);
}

function show(state) {
  if (!state) return;
  shown = state;
  if (state.messages.some(({ id, text }) => id === unsent?.id && text === unsent.text)) unsent = null; // only the end of its answer was lost
  if (state.info.conversation) localStorage.setItem(KEPT, JSON.stringify(state.info, ["customer", "conversation"]));
  chat.receive({ type: "snapshot", message: null });
  chat.receive({ type: "messages", messages: unsent ? [...state.messages, unsent] : state.messages });
  chat.receive({ type: "info", info: state.info });
  chat.receive({ type: "settled" });
  if (ordersOf !== state.info.customer) tell("orders");
  ordersOf = state.info.customer;
  if (!underWay && !state.info.busy) follow();
  clearTimeout(later);
  if (state.info.busy && !underWay) later = setTimeout(refresh, 1000); // answered in another tab, or being stopped after a reload
}

async function ask(text) {
  // The same name again for a message whose answer was lost: the server knows it, and does nothing twice.
  const name = unsent?.text === text ? unsent.name : `${Date.now()}-${Math.random()}`;
  const message = {
    name, id: `unsent${performance.now()}`, at: new Date().toISOString(), text, state: "running",
    triage: null, sure: null, runner_up: null, decisions: [], waiting: null, choices: [], reply: "", usage: null, times: {}, error: null, rating: 0, why: "",
  };
  const mine = { message, begun: false, controller: new AbortController() };
  const fails = (code) => { unsent = { ...message, state: "failed", error: { code, reason: "" } }; };
  underWay = mine;
  unsent = null;
  step({ step: "start", message });
  try {
    const response = await post("/api/chat/stream", { input: text, id: name }, mine.controller.signal);
    mine.begun = response.ok;
    if (response.ok) await read(response, message);
    else fails((await response.json()).error);
  } catch {
    if (!mine.controller.signal.aborted) fails("network");
  } finally {
    if (underWay === mine) {
      underWay = ordersOf = null; // an answer may have changed the orders
      await refresh();
    }
  }
}

async function read(response, message) {
  message.id = response.headers.get("X-Message-Id") || message.id;
  step({ step: "start", message }); // under the server's name for it
  for await (const event of events(response.body)) step(stepOf(event));
}

function stepOf({ event, data }) {
  const { sure, runner_up, ...triage } = data; // of the event `triage`
  const steps = { waiting: { place: data.place }, triage: { triage, sure, runner_up }, decision: { decision: data }, token: { text: data.text }, done: { turn: data } };
  if (event in steps) return { step: event, ...steps[event] };
  return data.error === "stopped" ? { step: "stopped" } : { step: "failed", code: data.error, reason: "" };
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let { value, done } = await reader.read(); !done; { value, done } = await reader.read()) {
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const [, event, data] = block.match(/^event: (\w+)\ndata: (.*)$/s);
      yield { event, data: JSON.parse(data) };
    }
  }
}

async function stop() {
  const mine = underWay;
  mine?.controller.abort();
  underWay = null;
  const state = await post("/api/session/stop", {}).then((response) => (response.ok ? response.json() : null)).catch(() => null);
  if (mine && !mine.begun && (state || shown).messages.at(-1)?.text !== mine.message.text) unsent = { ...mine.message, state: "stopped" };
  if (state) show(state);
  else await refresh(); // stopped before the server knew of us: there is nothing to stop
}

async function download(form, language) {
  const response = await passed(await fetch(`/api/session/export?form=${form}&language=${language}`));
  const name = form === "json" ? "chat.json" : "chat.md";
  if (response) chat.receive({ type: "file", name, mime: response.headers.get("Content-Type"), text: await response.text() });
}
