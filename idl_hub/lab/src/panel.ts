/** The panel behind the status item: the GPU in detail, and who holds its memory. */

import { Widget } from '@lumino/widgets';
import { button, element, say } from './dom';
import type { Answer, Card, Holder } from './server';
import { clock, gigabytes, nameOf, percent, roomLeft, span } from './words';

export interface PanelActions {
  shutDown: (holder: Holder) => void;
  extend: () => void;
}

export class Panel extends Widget {
  private readonly cards = element('div');
  private readonly facts = element('dl', 'idl-Panel-facts');
  private readonly extend: HTMLButtonElement;
  private readonly holders = element('div');
  private readonly remark = element('p', 'idl-Panel-remark');
  private readonly heading = element('h2', '', 'Who holds the GPU’s memory');
  private drawn = '';

  constructor(private readonly actions: PanelActions) {
    super();
    this.addClass('idl-Panel');
    this.node.tabIndex = -1;
    this.node.setAttribute('role', 'dialog');
    this.node.setAttribute('aria-label', 'My GPU');
    this.extend = button('Extend my session', false, actions.extend);
    this.node.append(this.cards, this.facts, this.extend, this.heading, this.holders, this.remark);
  }

  refresh(answer: Answer, now: number): void {
    this.cards.replaceChildren(...(answer.has_gpu ? answer.gpus.map(card => drawCard(card, answer)) : [noGPU()]));
    this.facts.replaceChildren(...facts(answer, now));
    this.extend.hidden = !answer.can_extend;
    this.heading.hidden = !answer.has_gpu;
    this.holders.hidden = !answer.has_gpu;
    this.drawHolders(answer.holders);
    say(this.remark, remark(answer));
    this.remark.hidden = !this.remark.textContent;
  }

  /** Draw anew only what changed: a button that has the focus keeps it. */
  private drawHolders(holders: Holder[] | null): void {
    const wanted = JSON.stringify(holders);
    if (wanted === this.drawn) {
      return;
    }
    this.drawn = wanted;
    if (!holders?.length) {
      this.holders.replaceChildren(element('p', 'idl-quiet', holders ? 'Nothing of yours holds any.' : 'Looking …'));
      return;
    }
    const list = element('ul', 'idl-Panel-holders');
    list.append(...holders.map(holder => this.drawHolder(holder)));
    this.holders.replaceChildren(list);
  }

  private drawHolder(holder: Holder): HTMLElement {
    const item = element('li');
    const words = element('span', 'idl-Panel-holder');
    const name = element('strong', '', holder.name);
    name.title = holder.path;
    const memory = holder.memory_used_bytes;
    const held = memory === null ? 'how much is not known' : `${gigabytes(memory)} GB`;
    words.append(name, element('span', 'idl-quiet', holder.busy ? `${held} · running` : held));
    item.append(words);
    if (holder.kernel_id !== null) {
      const shutDown = button('Shut down', false, () => this.actions.shutDown(holder));
      shutDown.setAttribute('aria-label', `Shut down the kernel of ${holder.name}`);
      item.append(shutDown);
    }
    return item;
  }
}

function drawCard(card: Card, answer: Answer): HTMLElement {
  const box = element('div', 'idl-Panel-card');
  const title = element('h1', '', nameOf(card, answer.server));
  if (answer.simulated) {
    title.append(element('span', 'idl-tag', 'simulated'));
  }
  box.append(title);
  if (card.name) {
    box.append(element('p', 'idl-quiet', card.name));
  }
  if (card.utilization_ratio !== null) {
    box.append(meter('Load', card.utilization_ratio, percent(card.utilization_ratio)));
  }
  if (card.memory_used_bytes !== null && card.memory_total_bytes) {
    const words = `${gigabytes(card.memory_used_bytes)} of ${gigabytes(card.memory_total_bytes)} GB`;
    box.append(meter('Memory', card.memory_used_bytes / card.memory_total_bytes, words));
  }
  return box;
}

function meter(label: string, ratio: number, words: string): HTMLElement {
  const row = element('div', 'idl-Panel-meter');
  const bar = element('span', 'idl-Panel-bar');
  const filled = element('span');
  filled.style.width = percent(Math.min(1, Math.max(0, ratio))).replace(' ', '');
  bar.append(filled);
  row.append(element('span', '', label), bar, element('span', 'idl-Panel-value', words));
  return row;
}

function facts(answer: Answer, now: number): HTMLElement[] {
  const rows: [string, string][] = [];
  const hottest = Math.max(...answer.gpus.map(card => card.temperature_celsius ?? -Infinity));
  if (answer.has_gpu && Number.isFinite(hottest)) {
    rows.push(['Temperature', `${hottest} °C`]);
  }
  if (answer.has_gpu && answer.idle_seconds !== null) {
    rows.push(['Idle for', answer.idle_seconds < 60 ? 'in use' : span(answer.idle_seconds)]);
  }
  if (answer.started_at !== null) {
    rows.push(['Session since', clock(answer.started_at)]);
  }
  if (answer.ends_at !== null) {
    rows.push(['Time left', `${span(answer.ends_at - now)} (until ${clock(answer.ends_at)})`]);
  }
  if (answer.home) {
    rows.push(['Home', roomLeft(answer.home)]);
  }
  return rows.flatMap(([name, value]) => [element('dt', '', name), element('dd', '', value)]);
}

function noGPU(): HTMLElement {
  const box = element('div', 'idl-Panel-card');
  const words = 'To get one, stop your server on the hub’s home page and start it with a GPU.';
  box.append(element('h1', '', 'This session has no GPU'), element('p', 'idl-quiet', words));
  return box;
}

function remark(answer: Answer): string {
  if (answer.lost) {
    return `This server lost its GPU: ${answer.lost}.`;
  }
  if (answer.hub.reachable) {
    return '';
  }
  return `The hub is not reachable: ${answer.hub.words}. Load and memory are read in this server and go on; time left may have changed.`;
}
