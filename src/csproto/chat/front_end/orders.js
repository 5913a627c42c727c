// ---- the customer's orders beside the chat; on a narrow screen a drawer

const SHINE = 4000; // ms for which an order that has changed is marked

class Orders {
  constructor(chat) {
    Object.assign(this, { chat, rows: [], changed: new Set(), opened: "" }); // opened: the order whose suggestions are shown
    this.title = chat.heading("");
    this.head = make("div", { class: "csp-side-head" });
    this.items = make("ul", { class: "csp-orders" });
    this.node = make("aside", { class: "csp-side" }, this.head, this.items);
  }

  receive(rows) {
    const before = new Map(this.rows.map((row) => [row.id, JSON.stringify(row)]));
    const changed = rows.filter((row) => before.has(row.id) && before.get(row.id) !== JSON.stringify(row));
    this.rows = rows;
    if (!changed.length) return;
    this.changed = new Set(changed.map((row) => row.id));
    clearTimeout(this.shine);
    this.shine = setTimeout(() => { this.changed.clear(); this.chat.draw(); }, SHINE);
  }

  draw(still) { // still: whether a message can be sent now
    const { chat } = this;
    const { w, language } = chat;
    const key = JSON.stringify([this.rows, this.opened, [...this.changed], still, language]);
    if (key === this.key) return;
    this.key = key;
    setText(this.title, w.orders);
    this.node.setAttribute("aria-label", w.orders);
    this.head.replaceChildren(this.title, chat.button("close", w.close, () => chat.showDrawer(false)));
    this.items.replaceChildren(...(this.rows.length ? this.rows.map((row) => this.row(row, still)) : [make("li", {}, w.no_orders)]));
  }

  row(row, still) {
    const { chat } = this;
    const { w } = chat;
    const open = row.id === this.opened;
    const day = new Date(row.day).toLocaleDateString(chat.language === "en" ? "en-GB" : "zh-CN", { month: "short", day: "numeric", timeZone: "UTC" });
    const pending = [w.refund[row.refund], ...row.open.filter((kind) => kind !== "return" || !row.refund).map((kind) => w.writes[kind] || kind)];
    const line = (name, ...parts) => make("span", { class: `csp-order-${name}` }, ...parts);
    const toggle = () => { this.opened = open ? "" : row.id; chat.drawNow(); };
    const head = make("button", { type: "button", class: `csp-order-head csp-do-order-${row.id}`, "aria-expanded": String(open), onclick: toggle },
      line("item", row.item), line("amount", row.amount), line("state", `${row.id} · ${w.status[row.status] || row.status} · ${day}`),
      pending.some(Boolean) ? line("open", pending.filter(Boolean).join(" · ")) : null);
    const say = (text) => { this.opened = ""; chat.showDrawer(false); chat.say(text); };
    const chips = row.wishes.map(({ intent, text }) => chat.chip(w.intents[intent] || intent, () => say(text[chat.language]), !still));
    const offers = make("div", { class: "csp-chips", role: "group", "aria-label": w.suggestions, hidden: !open },
      ...(chips.length ? chips : [make("span", {}, w.no_suggestions)]));
    return make("li", { class: `csp-order${this.changed.has(row.id) ? " csp-changed" : ""}`, "data-id": row.id }, head, offers);
  }

  examples(most) { // what this customer may want to say, the newest orders first
    return this.rows.filter((row) => row.wishes.length).slice(0, most).map((row) => row.wishes[0].text[this.chat.language]);
  }
}
