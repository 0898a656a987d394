// Where sound comes from. A source calls audio(Int16Array) as it has samples, and end() after the last of them; an Error that it throws
// holds a sentence for the user.
import { toInt16 } from "./pcm.js";

const REFUSALS = {
  NotAllowedError: "The microphone was refused. Allow it in the settings of this page, and start again.",
  NotFoundError: "This device has no microphone. A file can be recognised all the same.",
  NotReadableError: "The microphone cannot be opened; another program may use it.",
};

// {rate, stop()}. clean: whether the browser suppresses noise and echo and changes the level, which changes speech as well.
export async function openMicrophone(clean, { audio, end, fail }) {
  if (!navigator.mediaDevices) {
    throw new Error("A browser gives the microphone only to pages with https, or on this computer (http://127.0.0.1). Files work here, too.");
  }
  let stream;
  try {
    const audio = { channelCount: 1, echoCancellation: clean, noiseSuppression: clean, autoGainControl: clean };
    stream = await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new Error(REFUSALS[error.name] ?? `The microphone cannot be used: ${error.message}.`);
  }
  const context = new AudioContext(); // at its own rate: Firefox cannot connect a microphone to another one
  const release = () => {
    for (const track of stream.getTracks()) track.stop();
    context.close();
  };
  try {
    await context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
    const node = new AudioWorkletNode(context, "capture", { channelCount: 1, channelCountMode: "explicit" });
    node.port.onmessage = ({ data }) => {
      if (data) { audio(data); return; }
      release();
      end();
    };
    let stopped = false;
    const stop = () => {
      if (!stopped) node.port.postMessage("end");
      stopped = true;
    };
    stream.getAudioTracks()[0].onended = () => { fail("The microphone has gone; what it gave is recognised."); stop(); };
    context.createMediaStreamSource(stream).connect(node).connect(context.destination); // silent, but without it some browsers do not pull
    context.resume();
    return { rate: context.sampleRate, stop };
  } catch (error) {
    release();
    throw new Error(error.name === "AbortError" ? "The server cannot be reached." : `This browser cannot record: ${error.message}.`);
  }
}

// A file, decoded by the browser at the model's rate: {rate, seconds, play()}. play() sends it as fast as the server takes it; room()
// is awaited before each piece.
export async function openFile(file, rate, { audio, end, room }) {
  let decoded;
  try {
    decoded = await new OfflineAudioContext(1, 1, rate).decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name} cannot be decoded by this browser. Most read WAV, MP3, FLAC, OGG and M4A.`);
  }
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, i) => decoded.getChannelData(i));
  const size = Math.round(rate / 5);
  let stopped = false;
  async function play() {
    for (let at = 0; at < decoded.length && !stopped; at += size) {
      const piece = new Int16Array(Math.min(size, decoded.length - at));
      for (let i = 0; i < piece.length; i++) {
        piece[i] = toInt16(channels.reduce((sum, channel) => sum + channel[at + i], 0) / channels.length);
      }
      await room();
      audio(piece);
    }
    end();
  }
  return { rate, seconds: decoded.duration, play, stop() { stopped = true; } };
}
