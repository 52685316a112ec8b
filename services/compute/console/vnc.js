// A VNC client (RFB 3.8): raw, copied and hextile rectangles, keyboard and pointer. No password: the token in the address is it.
'use strict';

// Bytes as they come, for whoever awaits a certain number of them.
class Inbox {
  constructor() { this.chunks = []; this.size = 0; this.waiting = null; }
  push(bytes) { this.chunks.push(bytes); this.size += bytes.length; this.look(); }
  look() {
    if (this.waiting && this.size >= this.waiting.n) { const { n, resolve } = this.waiting; this.waiting = null; resolve(this.cut(n)); }
  }
  take(n) { return new Promise((resolve) => { this.waiting = { n, resolve }; this.look(); }); }
  cut(n) {
    const out = new Uint8Array(n);
    for (let at = 0; at < n;) {
      const head = this.chunks[0], part = Math.min(head.length, n - at);
      out.set(head.subarray(0, part), at);
      at += part;
      if (part === head.length) this.chunks.shift(); else this.chunks[0] = head.subarray(part);
    }
    this.size -= n;
    return out;
  }
  async u8() { return (await this.take(1))[0]; }
  async u16() { const b = await this.take(2); return b[0] << 8 | b[1]; }
  async u32() { const b = await this.take(4); return (b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3]) >>> 0; }
}

const u16 = (n) => [n >> 8 & 255, n & 255];
const u32 = (n) => [n >>> 24 & 255, n >>> 16 & 255, n >>> 8 & 255, n & 255];

// The names browsers give to keys that are no letters, as X11 numbers them.
const KEYS = {
  Backspace: 0xff08, Tab: 0xff09, Enter: 0xff0d, Escape: 0xff1b, Delete: 0xffff, Home: 0xff50, End: 0xff57, PageUp: 0xff55, PageDown: 0xff56,
  ArrowLeft: 0xff51, ArrowUp: 0xff52, ArrowRight: 0xff53, ArrowDown: 0xff54, Insert: 0xff63, CapsLock: 0xffe5, NumLock: 0xff7f,
  ScrollLock: 0xff14, Pause: 0xff13, PrintScreen: 0xff61, ContextMenu: 0xff67, AltGraph: 0xfe03,
};
const SIDED = { Shift: [0xffe1, 0xffe2], Control: [0xffe3, 0xffe4], Alt: [0xffe9, 0xffea], Meta: [0xffeb, 0xffec] };

function keysym(event) {
  const { key } = event;
  if (SIDED[key]) return SIDED[key][event.location === 2 ? 1 : 0];
  if (KEYS[key]) return KEYS[key];
  const f = /^F(\d{1,2})$/.exec(key);
  if (f) return 0xffbd + Number(f[1]);
  if ([...key].length !== 1) return null;
  const code = key.codePointAt(0);
  return code < 0x100 ? code : 0x01000000 + code;
}

async function hello(inbox, send) {
  await inbox.take(12);
  send(new TextEncoder().encode('RFB 003.008\n'));
  const ways = await inbox.take(await inbox.u8());
  if (!ways.includes(1)) throw new Error('the guest wants a password');
  send([1]);
  if (await inbox.u32() !== 0) throw new Error('refused');
  send([1]);
  const width = await inbox.u16(), height = await inbox.u16();
  await inbox.take(16);
  const name = new TextDecoder().decode(await inbox.take(await inbox.u32()));
  // 32 bits a pixel, red first in memory: what a canvas takes.
  send([0, 0, 0, 0, 32, 24, 0, 1, ...u16(255), ...u16(255), ...u16(255), 0, 8, 16, 0, 0, 0]);
  const encodings = [1, 5, 0, -223];
  send([2, 0, ...u16(encodings.length), ...encodings.flatMap(u32)]);
  return { width, height, name };
}

function opaque(bytes, width, height) {
  for (let i = 3; i < bytes.length; i += 4) bytes[i] = 255;
  return new ImageData(new Uint8ClampedArray(bytes.buffer, bytes.byteOffset, bytes.length), width, height);
}

const color = (b) => `rgb(${b[0]},${b[1]},${b[2]})`;

async function hextile(inbox, pen, x0, y0, width, height) {
  let back = [0, 0, 0, 0], front = back;
  for (let y = y0; y < y0 + height; y += 16) {
    for (let x = x0; x < x0 + width; x += 16) {
      const w = Math.min(16, x0 + width - x), h = Math.min(16, y0 + height - y), mask = await inbox.u8();
      if (mask & 1) { pen.putImageData(opaque(await inbox.take(w * h * 4), w, h), x, y); continue; }
      if (mask & 2) back = await inbox.take(4);
      pen.fillStyle = color(back);
      pen.fillRect(x, y, w, h);
      if (mask & 4) front = await inbox.take(4);
      if (!(mask & 8)) continue;
      const own = Boolean(mask & 16), count = await inbox.u8(), data = await inbox.take(count * (own ? 6 : 2));
      for (let at = 0; at < data.length;) {
        if (own) { front = data.subarray(at, at + 4); at += 4; }
        const place = data[at++], size = data[at++];
        pen.fillStyle = color(front);
        pen.fillRect(x + (place >> 4), y + (place & 15), (size >> 4) + 1, (size & 15) + 1);
      }
    }
  }
}

async function updates(inbox, pen, canvas, send) {
  const ask = (whole) => send([3, whole ? 0 : 1, 0, 0, 0, 0, ...u16(canvas.width), ...u16(canvas.height)]);
  ask(true);
  for (;;) {
    const kind = await inbox.u8();
    if (kind === 1) { await inbox.take(3); await inbox.take(6 * await inbox.u16()); continue; }
    if (kind === 2) continue;
    if (kind === 3) { await inbox.take(3); await inbox.take(await inbox.u32()); continue; }
    if (kind !== 0) throw new Error(`message ${kind} is not known here`);
    await inbox.u8();
    let whole = false;
    for (let left = await inbox.u16(); left > 0; left--) {
      const x = await inbox.u16(), y = await inbox.u16(), w = await inbox.u16(), h = await inbox.u16(), encoding = await inbox.u32() | 0;
      if (encoding === 0) { if (w && h) pen.putImageData(opaque(await inbox.take(w * h * 4), w, h), x, y); }
      else if (encoding === 1) { const fx = await inbox.u16(), fy = await inbox.u16(); pen.drawImage(canvas, fx, fy, w, h, x, y, w, h); }
      else if (encoding === 5) await hextile(inbox, pen, x, y, w, h);
      else if (encoding === -223) { canvas.width = w; canvas.height = h; whole = true; }
      else throw new Error(`encoding ${encoding} was not asked for`);
    }
    ask(whole);
  }
}

function listen(canvas, send) {
  const down = new Map();
  const key = (sym, pressed) => send([4, pressed ? 1 : 0, 0, 0, ...u32(sym)]);
  canvas.addEventListener('keydown', (event) => {
    const sym = keysym(event);
    event.preventDefault();
    if (sym !== null) { down.set(event.code, sym); key(sym, true); }
  });
  canvas.addEventListener('keyup', (event) => {
    event.preventDefault();
    // What was pressed is let go, whatever the key means by now.
    const sym = down.get(event.code);
    if (sym !== undefined) { down.delete(event.code); key(sym, false); }
  });
  canvas.addEventListener('blur', () => { for (const sym of down.values()) key(sym, false); down.clear(); });
  let buttons = 0;
  const point = (event, extra = 0) => {
    const box = canvas.getBoundingClientRect();
    const at = (value, from, size, most) => Math.max(0, Math.min(most - 1, Math.floor((value - from) * most / size)));
    send([5, buttons | extra, ...u16(at(event.clientX, box.left, box.width, canvas.width)), ...u16(at(event.clientY, box.top, box.height, canvas.height))]);
  };
  // Browsers count left, right, middle; RFB left, middle, right.
  const held = (event) => (event.buttons & 1) | (event.buttons & 4 ? 2 : 0) | (event.buttons & 2 ? 4 : 0);
  for (const name of ['mousedown', 'mouseup', 'mousemove']) {
    canvas.addEventListener(name, (event) => { buttons = held(event); if (name === 'mousedown') canvas.focus(); point(event); });
  }
  canvas.addEventListener('wheel', (event) => { event.preventDefault(); point(event, event.deltaY < 0 ? 8 : 16); point(event); }, { passive: false });
  canvas.addEventListener('contextmenu', (event) => event.preventDefault());
  document.getElementById('cad').addEventListener('click', () => {
    const keys = [0xffe3, 0xffe9, 0xffff];
    keys.forEach((sym) => key(sym, true));
    keys.reverse().forEach((sym) => key(sym, false));
    canvas.focus();
  });
}

function address() {
  const path = (new URLSearchParams(location.search).get('path') || '').replace(/^\/+/, '');
  return `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/${path}`;
}

async function start() {
  const state = document.getElementById('state'), canvas = document.getElementById('screen');
  const socket = new WebSocket(address(), ['binary']), inbox = new Inbox();
  socket.binaryType = 'arraybuffer';
  const send = (bytes) => { if (socket.readyState === 1) socket.send(Uint8Array.from(bytes)); };
  socket.onmessage = (event) => inbox.push(new Uint8Array(event.data));
  socket.onclose = () => { state.textContent = 'The connection is closed. A console opens for a few minutes after it was asked for; ask for a new one.'; };
  try {
    const { width, height, name } = await hello(inbox, send);
    canvas.width = width;
    canvas.height = height;
    state.textContent = name;
    document.title = name;
    listen(canvas, send);
    canvas.focus();
    await updates(inbox, canvas.getContext('2d'), canvas, send);
  } catch (error) {
    state.textContent = error.message;
    socket.close();
  }
}

if (typeof document !== 'undefined') start();
if (typeof module !== 'undefined') module.exports = { Inbox, hello, hextile, keysym, updates };
