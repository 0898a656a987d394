// What the page asks of its server. Addresses are relative, so that it works under any path of a proxy.
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/; // what a subprotocol may hold
const MOST_WAITING = 20; // seconds of sound that may wait in the browser

export class KeyNeeded extends Error {}

async function ask(path, key) {
  try {
    return await fetch(path, { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  } catch {
    throw new Error("The server cannot be reached.");
  }
}

// [{id, languages, sample_rate}]
export async function listModels(key) {
  const answer = await ask("v1/models", key);
  if (answer.status === 401) throw new KeyNeeded(key ? "The server does not know this key." : "This server asks for a key.");
  if (!answer.ok) throw new Error(`The server has no list of models: it answers ${answer.status}.`);
  return (await answer.json()).data;
}

// Why a socket was not opened. A browser does not say it, so other requests must.
async function whyRefused(key) {
  await listModels(key);
  const { status } = await ask("ready", key);
  return new Error(status === 503 ? "The server is full or shutting down; try again later."
    : "The server refused the session; it may not allow pages from this address.");
}

// A live session. on: event(message) for each, and closed(error), once; error is null after a good end.
export class Session {
  constructor({ model, language, rate, key }, on) {
    this.rate = rate;
    this.on = on;
    this.ready = false;
    this.before = []; // messages for a server that is not ready
    this.told = "";
    const query = new URLSearchParams({ model, rate, encoding: "s16" });
    if (language) query.set("language", language);
    const protocols = ["maya"];
    if (key && TOKEN.test(key)) protocols.push(`maya-key.${key}`);
    else if (key) query.set("token", key);
    const address = new URL(`v1/stream?${query}`, document.baseURI).href.replace(/^http/, "ws");
    this.socket = new WebSocket(address, protocols);
    this.socket.onmessage = ({ data }) => this.receive(JSON.parse(data));
    this.socket.onclose = async ({ code, reason }) => {
      try { on.closed(await this.sentence(code, this.told || reason, key)); } catch (error) { on.closed(error); }
    };
  }

  receive(message) {
    if (message.type === "error") { this.told = message.message; return; }
    if (message.type === "ready") {
      this.ready = true;
      for (const waiting of this.before.splice(0)) this.socket.send(waiting);
    }
    this.on.event(message);
  }

  async sentence(code, reason, key) {
    if (code === 1000) return null;
    if (code === 1013) return new Error(`The server is full (${reason}); try again later.`);
    if (code === 1012) return new Error("The server is shutting down; it has recognised all that it got.");
    if (reason) return new Error(`The server ended the session: ${reason}.`);
    return this.ready ? new Error("The connection was lost.") : whyRefused(key);
  }

  get waitingSeconds() { return this.socket.bufferedAmount / 2 / this.rate; }

  send(message) {
    if (!this.ready) this.before.push(message);
    else if (this.socket.readyState === WebSocket.OPEN) this.socket.send(message);
    if (this.waitingSeconds > MOST_WAITING) {
      this.told = "the connection is slower than the sound";
      this.socket.close(3000, "too slow");
    }
  }

  end() { this.send('{"type": "end"}'); }

  // Resolves when a file may send more; audio waits in the network and in the server, not here.
  async room() {
    while (!this.ready || this.waitingSeconds > 1) {
      if (this.socket.readyState > WebSocket.OPEN) return;
      await new Promise((done) => setTimeout(done, 20));
    }
  }
}
