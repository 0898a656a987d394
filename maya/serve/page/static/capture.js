// In the audio thread: what the microphone gives, as 16-bit samples in messages of a twentieth of a second. Any message to it asks for
// the rest, which null follows.
import { toInt16 } from "./pcm.js";

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.samples = new Int16Array(Math.round(sampleRate / 20));
    this.count = 0;
    this.open = true;
    this.port.onmessage = () => {
      this.open = false;
      this.send();
      this.port.postMessage(null);
    };
  }

  send() {
    const part = this.samples.slice(0, this.count);
    this.count = 0;
    if (part.length) this.port.postMessage(part, [part.buffer]);
  }

  process([[channel]]) {
    if (!this.open) return false;
    for (const sample of channel ?? []) { // none before the microphone is connected
      this.samples[this.count++] = toInt16(sample);
      if (this.count === this.samples.length) this.send();
    }
    return true;
  }
}

registerProcessor("capture", Capture);
