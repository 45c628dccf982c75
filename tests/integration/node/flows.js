// The main flows with amqplib, unmodified. `node flows.js URL FLOW [ARGUMENT]...`: ends with status 0
// when the broker did what the flow expects, otherwise with the failed assertion on stderr.
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const amqp = require('amqplib');

// Resolves with the first message of a queue.
async function next(channel, queue, options = {}) {
  return new Promise((resolve, reject) => {
    channel.consume(queue, resolve, options).catch(reject);
  });
}

const flows = {
  async publish_and_consume(connection) {
    const channel = await connection.createConfirmChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    const bodies = [Buffer.alloc(0), Buffer.from('hello'), crypto.randomBytes(300000)];
    const received = [];
    const all = new Promise((resolve) => {
      channel.consume(queue, (message) => {
        received.push(message);
        channel.ack(message);
        if (received.length === bodies.length) resolve();
      });
    });
    const headers = { text: 'ü', number: 42, big: 2 ** 40, real: 1.5, yes: true, none: null,
      list: [1, 'two', { three: 3 }], table: { a: { b: 'c' } } };
    for (const body of bodies) {
      channel.sendToQueue(queue, body, { headers, persistent: true, messageId: 'm',
        correlationId: 'c', contentType: 'application/octet-stream', timestamp: 1700000000 });
    }
    await channel.waitForConfirms();
    await all;
    received.forEach((message, index) => {
      assert.deepEqual(message.content, bodies[index]);
      assert.deepEqual(message.properties.headers, headers);
      assert.equal(message.properties.deliveryMode, 2);
      assert.equal(message.properties.timestamp, 1700000000);
      assert.equal(message.fields.redelivered, false);
    });
  },

  async exchanges(connection) {
    const channel = await connection.createChannel();
    const cases = {
      direct: ['red', 'red', {}], fanout: ['', 'any', {}], topic: ['a.*.#', 'a.b.c.d', {}],
      headers: ['', '', { 'x-match': 'all', colour: 'red' }],
    };
    for (const [type, [binding, key, args]] of Object.entries(cases)) {
      const exchange = `amqplib-${type}-${crypto.randomUUID()}`;
      await channel.assertExchange(exchange, type, { durable: false, autoDelete: true });
      const { queue } = await channel.assertQueue('', { exclusive: true });
      await channel.bindQueue(queue, exchange, binding, args);
      channel.publish(exchange, key, Buffer.from(type), { headers: { colour: 'red' } });
      const message = await next(channel, queue, { noAck: true });
      assert.equal(message.content.toString(), type);
      assert.equal(message.fields.exchange, exchange);
      await channel.unbindQueue(queue, exchange, binding, args);
    }
  },

  async acknowledge_and_reject(connection) {
    const channel = await connection.createConfirmChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    for (let n = 0; n < 5; n++) channel.sendToQueue(queue, Buffer.from(String(n)));
    await channel.waitForConfirms();
    const got = [];
    for (let n = 0; n < 4; n++) got.push(await channel.get(queue));
    channel.ack(got[0]);
    channel.nack(got[1], false, true);
    channel.reject(got[2], false);
    channel.ack(got[3], true);
    const again = await channel.get(queue, { noAck: true });
    assert.equal(again.content.toString(), '1');
    assert.equal(again.fields.redelivered, true);
    assert.equal((await channel.get(queue, { noAck: true })).content.toString(), '4');
    assert.equal(await channel.get(queue), false);
  },

  async prefetch(connection) {
    const channel = await connection.createConfirmChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    await channel.prefetch(2);
    for (let n = 0; n < 6; n++) channel.sendToQueue(queue, Buffer.from(String(n)));
    await channel.waitForConfirms();
    let unacked = 0;
    let most = 0;
    let seen = 0;
    await new Promise((resolve) => {
      channel.consume(queue, (message) => {
        most = Math.max(most, ++unacked);
        setImmediate(() => {
          unacked--;
          channel.ack(message);
          if (++seen === 6) resolve();
        });
      });
    });
    assert.ok(most <= 2, `${most} messages were unacked at once`);
  },

  async mandatory(connection) {
    const channel = await connection.createConfirmChannel();
    const returned = new Promise((resolve) => { channel.on('return', resolve); });
    channel.publish('', `nobody-${crypto.randomUUID()}`, Buffer.from('back'), { mandatory: true });
    await channel.waitForConfirms();
    const message = await returned;
    assert.equal(message.fields.replyCode, 312);
    assert.equal(message.content.toString(), 'back');
  },

  async channel_errors(connection) {
    const channel = await connection.createChannel();
    const closed = new Promise((resolve) => { channel.on('error', resolve); });
    await assert.rejects(channel.checkQueue(`missing-${crypto.randomUUID()}`), /404/);
    assert.equal((await closed).code, 404);
    const other = await connection.createChannel();
    await other.assertQueue('', { exclusive: true });
  },

  async deleted_queue_cancels_consumer(connection) {
    const channel = await connection.createChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    const cancelled = next(channel, queue);
    await channel.checkQueue(queue);
    await channel.deleteQueue(queue);
    assert.equal(await cancelled, null);
  },

  async many_messages(connection) {
    const count = 20000;
    const channel = await connection.createConfirmChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    await channel.prefetch(500);
    let expected = 0;
    const all = new Promise((resolve) => {
      channel.consume(queue, (message) => {
        assert.equal(message.content.readUInt32BE(0), expected++);
        channel.ack(message);
        if (expected === count) resolve();
      });
    });
    for (let n = 0; n < count; n++) {
      const body = Buffer.alloc(64);
      body.writeUInt32BE(n);
      if (!channel.sendToQueue(queue, body)) {
        await new Promise((resolve) => { channel.once('drain', resolve); });
      }
    }
    await channel.waitForConfirms();
    await all;
    await channel.close();  // behind the last ack; what follows the close of its connection is lost
  },

  // The client's half of an RPC: `rpc QUEUE INPUT` prints the answer.
  async rpc(connection, queue, input) {
    const channel = await connection.createChannel();
    const reply = await channel.assertQueue('', { exclusive: true });
    const correlationId = crypto.randomUUID();
    const answer = new Promise((resolve) => {
      channel.consume(reply.queue, (message) => {
        if (message.properties.correlationId === correlationId) resolve(message);
      }, { noAck: true });
    });
    channel.sendToQueue(queue, Buffer.from(input), { correlationId, replyTo: reply.queue });
    process.stdout.write((await answer).content);
  },
};

async function main() {
  const [url, flow, ...rest] = process.argv.slice(2);
  if (!(flow in flows)) throw new Error(`flows: ${Object.keys(flows).join(', ')}`);
  const connection = await amqp.connect(url);
  await flows[flow](connection, ...rest);
  await connection.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
