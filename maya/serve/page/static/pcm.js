// Samples as the server takes them. A file of 16 bits that was decoded to floats comes out as it was.
export const toInt16 = (sample) => Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
