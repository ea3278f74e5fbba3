/** The little that is needed to make elements. */

/** Return a new element with a class and text; what is given as text is never read as HTML. */
export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className = '',
  text = ''
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** Return a button in JupyterLab's style. */
export function button(label: string, primary: boolean, pressed: () => void): HTMLButtonElement {
  const made = element('button', `jp-mod-styled ${primary ? 'jp-mod-accept' : 'jp-mod-reject'}`, label);
  made.type = 'button';
  made.addEventListener('click', pressed);
  return made;
}

/** Set an element's text, if it is another: what stays is not read out again. */
export function say(target: HTMLElement, text: string): void {
  if (target.textContent !== text) {
    target.textContent = text;
  }
}
