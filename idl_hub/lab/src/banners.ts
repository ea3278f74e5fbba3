/** Shows notices over the page, with a countdown. Toasts would not do: "do not disturb" switches them off. */

import { Widget } from '@lumino/widgets';
import { button, element, say } from './dom';
import type { Doing, Notice } from './notices';
import type { Item } from './server';
import { countdown, size } from './words';

export class Banners extends Widget {
  private readonly shown = new Map<string, Banner>();

  constructor(
    private readonly now: () => number,
    private readonly does: (doing: Doing, notice: Notice) => void,
    private readonly deletes: (item: Item) => void
  ) {
    super();
    this.id = 'idl-hub-notices';
    this.addClass('idl-Notices');
    this.addClass('jp-ThemedContainer');
  }

  /** Show exactly these; what is shown already stays where it is, with the focus in it. */
  showAll(notices: Notice[], saved: string): void {
    for (const [id, banner] of this.shown) {
      if (!notices.some(notice => notice.id === id)) {
        banner.node.remove();
        this.shown.delete(id);
      }
    }
    for (const notice of notices) {
      let banner = this.shown.get(notice.id);
      if (!banner) {
        banner = new Banner(notice.id, this.does, this.deletes);
        this.shown.set(notice.id, banner);
        this.node.append(banner.node);
      }
      banner.update(notice, saved);
    }
    this.tick();
  }

  /** Move the countdowns on. */
  tick(): void {
    for (const banner of this.shown.values()) {
      banner.tick(this.now());
    }
  }
}

class Banner {
  readonly node = element('section', 'idl-Notice');
  private readonly title = element('h2');
  private readonly timer = element('span', 'idl-Notice-timer');
  private readonly text = element('p');
  private readonly items = element('ul', 'idl-Notice-items');
  private readonly saved = element('p', 'idl-Notice-saved');
  private readonly actions = element('div', 'idl-Notice-actions');
  private notice: Notice | null = null;
  private labels = '';
  private listed = '';

  constructor(
    id: string,
    private readonly does: (doing: Doing, notice: Notice) => void,
    private readonly deletes: (item: Item) => void
  ) {
    this.title.id = `idl-hub-notice-${id.replace(/\W/g, '-')}`;
    this.node.setAttribute('aria-labelledby', this.title.id);
    // Read out once; the countdown, which changes every second, is not.
    const words = element('div');
    words.setAttribute('role', 'alert');
    words.append(this.title, this.text);
    this.timer.setAttribute('role', 'timer');
    this.node.append(this.timer, words, this.items, this.saved, this.actions);
  }

  update(notice: Notice, saved: string): void {
    this.notice = notice;
    this.node.dataset['tone'] = notice.tone;
    say(this.title, notice.title);
    say(this.text, notice.text);
    say(this.saved, saved);
    this.saved.hidden = !saved;
    this.list(notice.items ?? []);
    const labels = notice.actions.map(action => action.label).join('|');
    if (labels !== this.labels) {
      this.labels = labels;
      this.actions.replaceChildren(
        ...notice.actions.map(action =>
          button(action.label, action.primary, () => this.notice && this.does(action.doing, this.notice))
        )
      );
    }
  }

  private list(items: Item[]): void {
    const listed = JSON.stringify(items);
    if (listed === this.listed) {
      return;
    }
    this.listed = listed;
    this.items.hidden = !items.length;
    this.items.replaceChildren(
      ...items.map(item => {
        const row = element('li');
        const path = element('span', 'idl-Notice-path', item.is_folder ? `${item.path}/` : item.path);
        path.title = item.path;
        const press = button('Delete', false, () => this.deletes(item));
        press.setAttribute('aria-label', `Delete ${item.path}`);
        row.append(path, element('span', 'idl-quiet', size(item.size_bytes)), press);
        return row;
      })
    );
  }

  tick(now: number): void {
    const deadline = this.notice?.deadline ?? null;
    this.timer.hidden = deadline === null;
    if (deadline !== null) {
      say(this.timer, countdown(deadline - now));
    }
  }
}
