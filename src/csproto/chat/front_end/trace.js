// ---- why an answer is as it is: a picture for builders, two plain lines for customers

class Trace {
  constructor(chat) {
    this.chat = chat;
    this.summary = make("summary");
    this.body = make("div", { class: "csp-trace-body" });
    this.node = make("details", { class: "csp-trace", hidden: true, ontoggle: () => this.intoView() }, this.summary, this.body);
  }

  intoView() {
    if (!this.node.open) return;
    this.chat.following = false;
    const fits = this.node.offsetHeight < this.chat.log.clientHeight;
    this.node.scrollIntoView({ block: fits ? "nearest" : "start" });
  }

  update(message) {
    const { w, builder } = this.chat;
    const decisions = message.decisions;
    this.node.hidden = !message.triage || !(builder || decisions.length);
    if (this.node.hidden) return;
    setText(this.summary, [w.why, ...(builder ? decisions.map(({ rule }) => rule) : [])].join(" · "));
    this.body.replaceChildren(...(builder ? this.picture(message) : decisions.flatMap((decision) => this.plain(decision))));
  }

  plain(decision) {
    const written = decision.write ? `${this.chat.w.written}: ${this.written(decision)}` : this.chat.w.unchanged;
    return [make("p", { class: "csp-source" }, decision.source), make("p", { class: "csp-written" }, written)];
  }

  picture(message) {
    const { w, heading } = this.chat;
    return [this.stages(message), heading(w.understood), this.marked(message), ...this.sure(message),
      make("code", { class: "csp-json" }, JSON.stringify(message.triage)),
      ...message.decisions.map((decision) => this.decision(decision)),
      ...(message.usage ? [heading(w.tokens), ...this.tokens(message.usage)] : [])];
  }

  stages({ triage, decisions, reply, times = {} }) {
    const { w } = this.chat;
    const names = (values) => [...new Set(values)].join(", ");
    const results = {
      understood: names(triage.wishes.map(({ intent }) => w.intents[intent] || intent)) || w.acts[triage.act],
      rule: names(decisions.map(({ action }) => action)), written: names(decisions.map((decision) => this.written(decision))),
    };
    const reached = { facts: true, understood: true, rule: decisions.length, written: decisions.length, said: reply };
    const longest = Math.max(1, ...Object.values(times));
    return make("ol", { class: "csp-stages", "aria-label": w.stages_label }, ...["facts", "understood", "rule", "written", "said"].map(
      (stage) => make("li", { class: reached[stage] ? "csp-reached" : "" },
        make("strong", {}, w.stages[stage]), make("span", { class: "csp-stage-result" }, results[stage] || ""),
        make("span", { class: "csp-stage-time" }, stage in times ? milliseconds(times[stage]) : ""), bar((times[stage] || 0) / longest))));
  }

  written({ write }) { return write ? this.chat.w.writes[write] || write : this.chat.w.nothing_written; }

  marked({ text, triage }) { // the message, with what was copied from it
    const found = [];
    const wanted = triage.wishes.flatMap(({ intent, orders, ...slots }) => [...orders.map((id) => ["order", id]), ...Object.entries(slots)]);
    for (const [name, value] of wanted) {
      const at = typeof value === "string" && value ? text.toLowerCase().indexOf(value.toLowerCase()) : -1;
      const end = at + String(value).length;
      if (at >= 0 && !found.some((other) => at < other.end && other.at < end)) found.push({ name, at, end });
    }
    found.sort((one, other) => one.at - other.at);
    const shown = found.flatMap(({ name, at, end }, place) => [
      text.slice(place ? found[place - 1].end : 0, at),
      make("mark", { "data-slot": this.chat.w.fact_names[name] || name }, text.slice(at, end))]);
    return make("p", { class: "csp-marked" }, ...shown, text.slice(found.at(-1)?.end || 0));
  }

  sure({ triage, sure, runner_up: other }) {
    const { w } = this.chat;
    const parts = [w.acts[triage.act]];
    if (sure !== null) parts.push(`${w.sure} ${Math.floor(1000 * sure) / 10} %`); // never rounded up to 100
    if (other) parts.push(`${w.runner_up}: ${w.intents[other] || other}`);
    return [...(sure === null ? [] : [bar(sure)]), make("p", { class: "csp-sure" }, parts.join(" · "))];
  }

  tokens({ prompt_tokens: read, cached_tokens: reused }) {
    const { w } = this.chat;
    const share = reused / Math.max(1, read);
    return [bar(share, "csp-tokens"), make("p", {}, `${w.read} ${read} · ${w.cached} ${reused} (${Math.round(100 * share)} %)`)];
  }

  decision(decision) {
    const { w, heading } = this.chat;
    const { rule, action, source, order, facts } = decision;
    const named = Object.entries(facts).flatMap(([name, value]) => [make("dt", {}, w.fact_names[name] || name), make("dd", {}, value)]);
    return make("div", { class: "csp-part" },
      heading(order ? `${w.rule} · ${w.fact_names.order} ${order}` : w.rule),
      make("p", { class: "csp-rule" }, make("code", {}, rule), " → ", make("code", {}, action)), make("p", { class: "csp-source" }, source),
      heading(w.written), make("p", { class: "csp-written" }, this.written(decision)),
      ...(named.length ? [heading(w.facts), make("dl", { class: "csp-facts" }, ...named)] : []));
  }
}
