/** Saves everything that is open and changed. */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { IDocumentManager } from '@jupyterlab/docmanager';
import type { DocumentRegistry } from '@jupyterlab/docregistry';

/** What came of saving: when (milliseconds since 1970), and the paths that could not be saved. */
export interface Saved {
  at: number;
  failed: string[];
}

const AREAS = ['main', 'left', 'right', 'down'];

export class Documents {
  private saving: Promise<Saved> | null = null;

  constructor(
    private readonly shell: JupyterFrontEnd.IShell,
    private readonly manager: IDocumentManager
  ) {}

  /** Save all changed documents. While that is going on, further calls wait for the same. */
  save(): Promise<Saved> {
    this.saving ??= this.saveAll().finally(() => {
      this.saving = null;
    });
    return this.saving;
  }

  private async saveAll(): Promise<Saved> {
    const failed: string[] = [];
    await Promise.all(
      this.changed().map(async context => {
        try {
          await context.save();
        } catch (error) {
          console.warn(`${context.path} could not be saved`, error);
        }
        // A save that was refused shows its own dialog and does not fail.
        if (context.model.dirty) {
          failed.push(context.path);
        }
      })
    );
    return { at: Date.now(), failed };
  }

  private changed(): DocumentRegistry.Context[] {
    const contexts = new Set<DocumentRegistry.Context>();
    for (const area of AREAS) {
      for (const widget of this.widgets(area)) {
        const context = this.manager.contextForWidget(widget);
        if (context?.isReady && context.model.dirty && !context.model.readOnly) {
          contexts.add(context);
        }
      }
    }
    return [...contexts];
  }

  private widgets(area: string) {
    try {
      return [...this.shell.widgets(area)];
    } catch {
      return []; // the single-document application has fewer areas
    }
  }
}
