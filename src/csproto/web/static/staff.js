// The staff's page: what waits, one ticket with its conversation, take and close.
// All markup is in staff.html; texts go into it by textContent only.
const LOOK = 5000; // ms between two looks at the list
const words = await fetch("/staff/words.json").then((file) => file.json());
const at = (id) => document.getElementById(id);
let language = localStorage.getItem("csproto-language") || (navigator.language.startsWith("zh") ? "zh" : "en");
let list = []; // the tickets that wait
let open = null; // the ticket that is shown

const filled = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const time = (moment) => new Date(moment).toLocaleString(language, { dateStyle: "short", timeStyle: "short" });
const kind = (ticket) => words[language].writes[ticket.kind] || ticket.kind;

function copyOf(template, values) { // with each field filled, or hidden if there is nothing to say
  const copy = at(template).content.firstElementChild.cloneNode(true);
  for (const field of copy.querySelectorAll("[data-field]")) {
    field.textContent = values[field.dataset.field] || "";
    field.hidden = !field.textContent;
  }
  return copy;
}

async function call(path, body) { // the answer; null if there is none, which is said
  const request = { headers: { "Accept-Language": language } };
  if (body) Object.assign(request, { method: "POST", body: JSON.stringify(body) }).headers["Content-Type"] = "application/json";
  const response = await fetch(`/api/staff/${path}`, request).catch(() => null);
  if (response?.ok) return response.json();
  say(response ? (await response.json()).response : words[language].unreachable, true);
  if (response?.status === 401) signedInAs(null);
  return null;
}

function say(text, bad = false) {
  at("said").textContent = text;
  at("said").classList.toggle("staff-bad", bad);
}

function signedInAs(name) { // null: nobody is, and nothing of the tickets stays on the page
  at("who").textContent = name;
  at("desk").hidden = at("sign-out").hidden = name === null;
  at("sign-in").hidden = name !== null;
  if (name === null) { list = []; show(null); }
}

async function look() {
  const found = await call("tickets");
  if (!found) return;
  const were = JSON.stringify(list);
  list = found.tickets;
  signedInAs(found.by);
  if (at("said").textContent === words[language].unreachable) say("");
  if (were !== JSON.stringify(list)) drawList();
  const now = open && list.find(({ ticket }) => ticket === open.ticket);
  if (open && !open.closed && JSON.stringify(now) !== open.row) await choose(open.ticket);
}

function drawList() {
  const focused = document.activeElement.dataset.ticket;
  at("nothing").hidden = list.length > 0;
  at("tickets").replaceChildren(...list.map(row));
  if (focused) at("tickets").querySelector(`[data-ticket="${focused}"]`)?.focus();
}

function row(ticket) {
  const w = words[language];
  const state = ticket.taken_by ? filled(w.taken_by, { by: ticket.taken_by }) : w.free;
  const whose = [ticket.customer, ticket.order, time(ticket.since)].filter(Boolean).join(" · ");
  const copy = copyOf("row", { number: ticket.number, what: kind(ticket), whose, state, urgent: ticket.urgent && w.urgent });
  const button = copy.querySelector("button");
  button.dataset.ticket = ticket.ticket;
  button.setAttribute("aria-current", String(open?.ticket === ticket.ticket));
  button.onclick = async () => { at("note").value = ""; await choose(ticket.ticket); at("number").focus(); };
  return copy;
}

async function choose(number) {
  const ticket = await call(`tickets/${number}`);
  if (ticket) show({ ...ticket, row: JSON.stringify(list.find(({ ticket: each }) => each === number)) });
}

function show(ticket) {
  open = ticket;
  drawList();
  at("ticket").hidden = !ticket;
  translate();
  if (!ticket) return;
  const w = words[language];
  const { customer, name, order, about, closed } = ticket;
  const facts = { about_customer: `${customer} ${name}`, since: time(ticket.since), order, ...about };
  const [names, texts] = [{ ...w.fact_names, ...w.more_facts }, { ...w.status, ...w.refund }];
  at("facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value).map(([fact, value]) => copyOf("fact", { name: names[fact], value: texts[value] || value })));
  at("summary").textContent = ticket.summary;
  at("conversations").replaceChildren(...(ticket.conversations.length ? ticket.conversations.map(conversation) : [copyOf("conversation", { title: w.no_conversation })]));
  at("work").hidden = closed;
  at("take").hidden = Boolean(ticket.taken_by);
}

function conversation(kept) {
  const copy = copyOf("conversation", { title: filled(words[language].conversation_of, { at: time(kept.at) }) });
  copy.querySelector("div").append(...kept.messages.map((message) => copyOf("message", message)));
  return copy;
}

function translate() {
  const w = words[language];
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = w.staff_title;
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = w[element.dataset.word];
  if (!open) return;
  const [by, state] = open.closed ? [open.closed_by, w.closed_by] : [open.taken_by, w.taken_by];
  at("number").textContent = [open.number, kind(open), by && filled(state, { by })].filter(Boolean).join(" · ");
}

async function work(what, body, said) {
  const done = await call(`tickets/${open.ticket}/${what}`, body);
  if (done) say(filled(words[language][said], done));
  await choose(open.ticket);
  await look();
  at("number").focus();
}

at("take").onclick = () => work("take", {}, "took");
at("work").onsubmit = (event) => { event.preventDefault(); work("close", { note: at("note").value }, "closed"); };
at("sign-in").onsubmit = async (event) => {
  event.preventDefault();
  const signedIn = await call("session", { token: at("token").value, by: at("name").value });
  at("token").value = "";
  if (signedIn) { say(""); await look(); }
};
at("sign-out").onclick = async () => { await call("session/end", {}); signedInAs(null); say(""); };
at("language").onclick = () => { language = language === "zh" ? "en" : "zh"; localStorage.setItem("csproto-language", language); say(""); show(open); };

const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => {
  const chosen = localStorage.getItem("csproto-page-theme"); // in the menu of the chat
  const theme = ["light", "dark"].includes(chosen) ? chosen : dark.matches ? "dark" : "light";
  for (const element of [document.documentElement, document.querySelector(".staff")]) element.dataset.theme = theme;
};
dark.onchange = paint;
paint();
translate();
await look();
if (at("desk").hidden) say(""); // nobody has tried to sign in yet
setInterval(() => { if (!document.hidden && !at("desk").hidden) look(); }, LOOK);
