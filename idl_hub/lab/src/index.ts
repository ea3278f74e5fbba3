/** "My GPU" in JupyterLab: a status item, and notices of what the hub is about to do. */

import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { Dialog, Notification, showDialog } from '@jupyterlab/apputils';
import { PageConfig } from '@jupyterlab/coreutils';
import { IDocumentManager } from '@jupyterlab/docmanager';
import { IStatusBar } from '@jupyterlab/statusbar';
import { Widget } from '@lumino/widgets';
import { Conductor } from './conductor';
import { Documents } from './documents';
import { type Holder, type Item, Server } from './server';

const TOLD_MS = 8000;
const KERNEL_ACTIONS = 'https://events.jupyter.org/jupyter_server/kernel_actions/v1';

const plugin: JupyterFrontEndPlugin<void> = {
  id: 'idl-hub:my-gpu',
  description: 'Shows this person’s GPU, and what the hub is about to do with it.',
  autoStart: true,
  requires: [IDocumentManager],
  optional: [IStatusBar],
  activate: (app: JupyterFrontEnd, manager: IDocumentManager, statusBar: IStatusBar | null) => {
    const server = new Server(app.serviceManager.serverSettings);
    const documents = new Documents(app.shell, manager);
    const conductor = new Conductor(server, documents, {
      openHub: () => window.location.assign(PageConfig.getOption('hubHost') + hubHome()),
      confirmShutDown,
      confirmDelete,
      tell: (words, done) => void Notification.emit(words, done ? 'success' : 'error', { autoClose: TOLD_MS })
    });
    app.serviceManager.events.stream.connect((_, event) => {
      if (event.schema_id === KERNEL_ACTIONS && event['action'] === 'restart') {
        conductor.kernelRestarted();
      }
    });
    Widget.attach(conductor.banners, document.body);
    // First on the left: what does not fit into the status bar is cut off on the right.
    statusBar?.registerStatusItem('idl-hub:my-gpu', { item: conductor.statusItem, align: 'left', rank: -10 });
  }
};

function hubHome(): string {
  return (PageConfig.getOption('hubPrefix') || '/hub/') + 'home';
}

async function confirmShutDown(holder: Holder): Promise<boolean> {
  const answer = await showDialog({
    title: `Shut down the kernel of ${holder.name}?`,
    body: 'Its variables are lost and the GPU memory is free. The notebook stays open with all it shows.',
    buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: 'Shut down' })]
  });
  return answer.button.accept;
}

async function confirmDelete(item: Item): Promise<boolean> {
  const answer = await showDialog({
    title: `Delete ${item.path}?`,
    body: item.is_folder ? 'All that is in this folder is deleted.' : 'It does not go to a trash.',
    buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: 'Delete' })]
  });
  return answer.button.accept;
}

export default plugin;
