// A terminal for a serial console: what shells, editors and boot messages use of the VT100.
'use strict';

const COLORS = ['#000', '#c33', '#3a3', '#b93', '#46c', '#b4b', '#3aa', '#ccc', '#666', '#f66', '#6e6', '#fd6', '#79f', '#f7f', '#6ee', '#fff'];

class Screen {
  constructor(columns, rows) {
    this.columns = columns;
    this.rows = rows;
    this.decoder = new TextDecoder();
    this.reset();
  }
  reset() {
    this.lines = Array.from({ length: this.rows }, () => this.blank());
    this.x = this.y = 0;
    this.top = 0;
    this.bottom = this.rows - 1;
    this.pen = { front: null, back: null, bold: false, swap: false };
    this.saved = [0, 0];
    this.rest = '';
  }
  blank() { return Array.from({ length: this.columns }, () => ({ char: ' ', pen: null })); }
  scroll(from, n) {
    for (let i = 0; i < Math.abs(n); i++) {
      if (n > 0) { this.lines.splice(from, 1); this.lines.splice(this.bottom, 0, this.blank()); }
      else { this.lines.splice(this.bottom, 1); this.lines.splice(from, 0, this.blank()); }
    }
  }
  feed() { if (this.y === this.bottom) this.scroll(this.top, 1); else if (this.y < this.rows - 1) this.y++; }
  write(bytes) {
    let text = this.rest + this.decoder.decode(bytes, { stream: true });
    this.rest = '';
    while (text) {
      if (text[0] === '\x1b') {
        const used = this.escape(text);
        // The end of a sequence has not come yet; one without an end is dropped.
        if (!used) { if (text.length < 256) this.rest = text; return; }
        text = text.slice(used);
        continue;
      }
      const [char] = text;
      text = text.slice(char.length);
      this.put(char);
    }
  }
  put(char) {
    if (char === '\r') this.x = 0;
    else if (char === '\n' || char === '\v' || char === '\f') this.feed();
    else if (char === '\b') this.x = Math.max(0, Math.min(this.x, this.columns - 1) - 1);
    else if (char === '\t') this.x = Math.min(this.columns - 1, (this.x >> 3) + 1 << 3);
    else if (char >= ' ' && char !== '\x7f') {
      if (this.x === this.columns) { this.x = 0; this.feed(); }
      this.lines[this.y][this.x++] = { char, pen: { ...this.pen } };
    }
  }
  // How much of the text the sequence takes; 0 when more has to come.
  escape(text) {
    if (text.length < 2) return 0;
    if (text[1] === '[') {
      const found = /^\x1b\[([0-?]*)[ -/]*([@-~])/.exec(text);
      if (!found) return /^\x1b\[[0-?]*[ -/]*$/.test(text) ? 0 : 2;
      this.control(found[1], found[2]);
      return found[0].length;
    }
    if (text[1] === ']') {
      const found = /^\x1b\][^\x07\x1b]*(\x07|\x1b\\)/.exec(text);
      return found ? found[0].length : 0;
    }
    if ('()#%'.includes(text[1])) return text.length < 3 ? 0 : 3;
    if (text[1] === 'c') this.reset();
    else if (text[1] === '7') this.saved = [this.x, this.y];
    else if (text[1] === '8') [this.x, this.y] = this.saved;
    else if (text[1] === 'D') this.feed();
    else if (text[1] === 'E') { this.x = 0; this.feed(); }
    else if (text[1] === 'M') { if (this.y === this.top) this.scroll(this.top, -1); else this.y = Math.max(0, this.y - 1); }
    return 2;
  }
  control(text, name) {
    const numbers = text.replace(/^[<=>?]/, '').split(';').map((n) => Math.min(9999, parseInt(n, 10) || 0));
    const n = Math.max(1, numbers[0]), limit = (v, most) => Math.max(0, Math.min(most, v));
    const erase = (y, from, to) => { for (let x = from; x < to; x++) this.lines[y][x] = { char: ' ', pen: null }; };
    const line = this.lines[this.y], x = Math.min(this.x, this.columns - 1);
    switch (name) {
      case 'A': this.y = limit(this.y - n, this.rows - 1); break;
      case 'B': case 'e': this.y = limit(this.y + n, this.rows - 1); break;
      case 'C': case 'a': this.x = limit(this.x + n, this.columns - 1); break;
      case 'D': this.x = limit(x - n, this.columns - 1); break;
      case 'E': this.x = 0; this.y = limit(this.y + n, this.rows - 1); break;
      case 'F': this.x = 0; this.y = limit(this.y - n, this.rows - 1); break;
      case 'G': case '`': this.x = limit(n - 1, this.columns - 1); break;
      case 'd': this.y = limit(n - 1, this.rows - 1); break;
      case 'H': case 'f': this.y = limit(n - 1, this.rows - 1); this.x = limit((numbers[1] || 1) - 1, this.columns - 1); break;
      case 'J':
        if (numbers[0] === 0) { erase(this.y, x, this.columns); for (let y = this.y + 1; y < this.rows; y++) erase(y, 0, this.columns); }
        else if (numbers[0] === 1) { for (let y = 0; y < this.y; y++) erase(y, 0, this.columns); erase(this.y, 0, x + 1); }
        else for (let y = 0; y < this.rows; y++) erase(y, 0, this.columns);
        break;
      case 'K': erase(this.y, numbers[0] === 0 ? x : 0, numbers[0] === 1 ? x + 1 : this.columns); break;
      case 'L': case 'M': if (this.y >= this.top && this.y <= this.bottom) this.scroll(this.y, Math.min(n, this.rows) * (name === 'M' ? 1 : -1)); break;
      case 'P': line.splice(x, n); while (line.length < this.columns) line.push({ char: ' ', pen: null }); break;
      case '@': for (let i = 0; i < Math.min(n, this.columns); i++) line.splice(x, 0, { char: ' ', pen: null }); line.length = this.columns; break;
      case 'X': erase(this.y, x, Math.min(this.columns, x + n)); break;
      case 'S': this.scroll(this.top, Math.min(n, this.rows)); break;
      case 'T': this.scroll(this.top, -Math.min(n, this.rows)); break;
      case 'm': this.color(numbers); break;
      case 'r':
        this.top = limit(n - 1, this.rows - 1);
        this.bottom = limit((numbers[1] || this.rows) - 1, this.rows - 1);
        if (this.top >= this.bottom) { this.top = 0; this.bottom = this.rows - 1; }
        this.x = this.y = 0;
        break;
      case 's': this.saved = [this.x, this.y]; break;
      case 'u': [this.x, this.y] = this.saved; break;
      // Where the cursor is, and what this is: shells ask to learn the size.
      case 'n': if (numbers[0] === 6 && this.answer) this.answer(`\x1b[${this.y + 1};${x + 1}R`); break;
      case 'c': if (this.answer) this.answer('\x1b[?6c'); break;
      default:
    }
  }
  color(numbers) {
    for (let i = 0; i < numbers.length; i++) {
      const n = numbers[i];
      if (n === 0) this.pen = { front: null, back: null, bold: false, swap: false };
      else if (n === 1) this.pen.bold = true;
      else if (n === 22) this.pen.bold = false;
      else if (n === 7) this.pen.swap = true;
      else if (n === 27) this.pen.swap = false;
      else if (n >= 30 && n < 38) this.pen.front = COLORS[n - 30];
      else if (n >= 40 && n < 48) this.pen.back = COLORS[n - 40];
      else if (n >= 90 && n < 98) this.pen.front = COLORS[n - 82];
      else if (n >= 100 && n < 108) this.pen.back = COLORS[n - 92];
      else if (n === 39) this.pen.front = null;
      else if (n === 49) this.pen.back = null;
      else if (n === 38 || n === 48) {
        const short = numbers[i + 1] === 5, found = short ? COLORS[numbers[i + 2]] || '#aaa' : `rgb(${numbers.slice(i + 2, i + 5)})`;
        if (n === 38) this.pen.front = found; else this.pen.back = found;
        i += short ? 2 : 4;
      }
    }
  }
  text() { return this.lines.map((line) => line.map((cell) => cell.char).join('').trimEnd()).join('\n'); }
}

const SPECIAL = {
  Enter: '\r', Backspace: '\x7f', Tab: '\t', Escape: '\x1b', ArrowUp: '\x1b[A', ArrowDown: '\x1b[B', ArrowRight: '\x1b[C', ArrowLeft: '\x1b[D',
  Home: '\x1b[H', End: '\x1b[F', Insert: '\x1b[2~', Delete: '\x1b[3~', PageUp: '\x1b[5~', PageDown: '\x1b[6~',
  F1: '\x1bOP', F2: '\x1bOQ', F3: '\x1bOR', F4: '\x1bOS', F5: '\x1b[15~', F6: '\x1b[17~', F7: '\x1b[18~', F8: '\x1b[19~', F9: '\x1b[20~', F10: '\x1b[21~',
  F11: '\x1b[23~', F12: '\x1b[24~',
};

// What a key sends; null for keys that send nothing, or that are the browser's.
function typed(event) {
  if (event.metaKey) return null;
  if (SPECIAL[event.key]) return SPECIAL[event.key];
  if ([...event.key].length !== 1) return null;
  if (event.ctrlKey && !event.altKey) {
    const code = event.key.toUpperCase().charCodeAt(0);
    if (code >= 64 && code < 96) return String.fromCharCode(code - 64);
    return event.key === ' ' ? '\0' : null;
  }
  return event.altKey && !event.ctrlKey ? `\x1b${event.key}` : event.key;
}

function draw(screen, at) {
  at.replaceChildren();
  screen.lines.forEach((line, y) => {
    let run = null, mark = '';
    line.forEach((cell, x) => {
      const here = y === screen.y && x === Math.min(screen.x, screen.columns - 1), key = JSON.stringify([cell.pen, here]);
      if (!run || key !== mark) {
        run = document.createElement('span');
        mark = key;
        if (here) run.className = 'cursor';
        const pen = cell.pen;
        if (pen && !here) {
          const [front, back] = pen.swap ? [pen.back || '#000', pen.front || '#d6d9e0'] : [pen.front, pen.back];
          if (front) run.style.color = front;
          if (back) run.style.background = back;
          if (pen.bold) run.style.fontWeight = 'bold';
        }
        at.append(run);
      }
      run.append(cell.char);
    });
    at.append('\n');
  });
}

function start() {
  const state = document.getElementById('state'), at = document.getElementById('screen'), screen = new Screen(80, 24);
  const path = (new URLSearchParams(location.search).get('path') || '').replace(/^\/+/, '');
  const socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/${path}`, ['binary']);
  socket.binaryType = 'arraybuffer';
  const send = (text) => { if (socket.readyState === 1) socket.send(new TextEncoder().encode(text)); };
  screen.answer = send;
  let asked = false;
  const later = () => { if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; draw(screen, at); }); } };
  socket.onopen = () => { state.textContent = 'connected; press Enter'; };
  socket.onclose = () => { state.textContent = 'The connection is closed: somebody else has the port, or the token has expired.'; };
  socket.onmessage = (event) => { screen.write(new Uint8Array(event.data)); later(); };
  at.addEventListener('keydown', (event) => {
    const text = typed(event);
    if (text !== null) { event.preventDefault(); send(text); }
  });
  at.addEventListener('paste', (event) => { event.preventDefault(); send(event.clipboardData.getData('text').replace(/\r?\n/g, '\r')); });
  at.focus();
  later();
}

if (typeof document !== 'undefined') start();
if (typeof module !== 'undefined') module.exports = { Screen, typed };
