// Opens one object of sc2 with WebCrypto alone: node open.mjs KIT OBJECT [FORM] > CONTENT
// KIT is a kit without a passphrase; the form goes to standard error, or into the file FORM. See docs/format.md.
import { readFileSync, writeFileSync } from 'node:fs';
const { subtle } = globalThis.crypto;
const [kitPath, objectPath, formPath] = process.argv.slice(2);
const kit = JSON.parse(readFileSync(kitPath, 'utf8'));
const object = readFileSync(objectPath);
const ascii = (text) => Buffer.from(text, 'latin1');
const refuse = (why) => { console.error(`refused: ${why}`); process.exit(4); };
const hmac = async (key, ...parts) => {
  const imported = await subtle.importKey('raw', key, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
  return Buffer.from(await subtle.sign('HMAC', imported, Buffer.concat(parts)));
};
const sha256 = async (data) => Buffer.from(await subtle.digest('SHA-256', data));
// The header: which vault, source, element, key and version; then the commitment to the key.
const header = object.subarray(0, 144);
if (header.length < 144 || !header.subarray(0, 8).equals(Buffer.concat([ascii('kr-sc2'), Buffer.of(1, 0)]))) refuse('header');
if (header.subarray(8, 24).toString('hex') !== kit.vault) refuse('vault');
let master;
for (const each of kit.masters.map((hex) => Buffer.from(hex, 'hex'))) {
  const id = await hmac(each, ascii('kropot sc2 key id'), header.subarray(8, 24));
  if (id.subarray(0, 8).equals(header.subarray(72, 80))) master = each;
}
if (!master) refuse('key');
// The keys: HKDF-SHA256, with everything before the commitment as salt.
const base = await subtle.importKey('raw', master, 'HKDF', false, ['deriveBits']);
const derive = async (use) => Buffer.from(await subtle.deriveBits(
  { name: 'HKDF', hash: 'SHA-256', salt: header.subarray(0, 112), info: ascii(`kropot sc2 ${use}`) }, base, 256));
if (!(await derive('commitment')).equals(header.subarray(112, 144))) refuse('commitment');
const key = await subtle.importKey('raw', await derive('sealing'), 'AES-GCM', false, ['decrypt']);
const headerDigest = await sha256(header);
// One piece: nonce, ciphertext, tag; bound to its label, its index, whether it is the last, and the header.
const open = async (sealed, label, index, last) => {
  const place = Buffer.alloc(10);
  place.writeUInt8(label, 0);
  place.writeBigUInt64BE(BigInt(index), 1);
  place.writeUInt8(last ? 1 : 0, 9);
  const how = { name: 'AES-GCM', iv: sealed.subarray(0, 12), additionalData: Buffer.concat([place, headerDigest]) };
  try { return Buffer.from(await subtle.decrypt(how, key, sealed.subarray(12))); } catch { return refuse(label === 1 ? 'content' : 'form'); }
};
// msgpack, as far as forms need it.
const decode = (data) => {
  let at = 0;
  const take = (size) => data.subarray(at, at += size);
  const whole = (size, signed) => { const hex = take(size).toString('hex'); return signed ? BigInt.asIntN(8 * size, BigInt('0x' + hex)) : BigInt('0x' + hex); };
  const many = (size) => Array.from({ length: Number(size) }, one);
  const map = (size) => Object.fromEntries(Array.from({ length: Number(size) }, () => [one(), one()]));
  const text = (size) => take(Number(size)).toString('utf8');
  function one() {
    const kind = take(1)[0];
    if (kind < 0x80) return BigInt(kind);
    if (kind < 0x90) return map(kind & 15);
    if (kind < 0xa0) return many(kind & 15);
    if (kind < 0xc0) return text(kind & 31);
    if (kind >= 0xe0) return BigInt(kind - 256);
    if (kind === 0xc2 || kind === 0xc3) return kind === 0xc3;
    if (kind >= 0xc4 && kind <= 0xc6) return take(Number(whole(1 << (kind - 0xc4))));
    if (kind >= 0xcc && kind <= 0xd3) return whole(1 << ((kind - 0xcc) & 3), kind >= 0xd0);
    if (kind >= 0xd9 && kind <= 0xdb) return text(whole(1 << (kind - 0xd9)));
    if (kind >= 0xdc && kind <= 0xdf) return (kind < 0xde ? many : map)(whole(kind & 1 ? 4 : 2));
    return refuse('form');
  }
  return one();
};
const formEnd = 146 + object.readUInt16BE(144);
const padded = await open(object.subarray(146, formEnd), 2, 0, true);
const form = decode(padded.subarray(2, 2 + padded.readUInt16BE(0)));
if (!(await hmac(Buffer.from(kit.id_key, 'hex'), ascii('element'), form.path)).equals(header.subarray(40, 72))) refuse('name');
const chunks = [];
for (let at = formEnd, index = 0; index === 0 || at < object.length; at += 65564, index += 1) {
  chunks.push(await open(object.subarray(at, at + 65564), 1, index, at + 65564 >= object.length));
}
const size = Number(form.content ?? form.size ?? 0n);
const plain = Buffer.concat(chunks);
if (plain.length < size || (!form.padding && plain.length > size)) refuse('cut');
const shown = JSON.stringify(form, (_, value) => typeof value === 'bigint' ? value.toString() : value?.type === 'Buffer' ? Buffer.from(value.data).toString('base64') : value);
if (formPath) writeFileSync(formPath, shown); else console.error(shown);
process.stdout.write(plain.subarray(Number(form.attributes ?? 0n), size));
