"""A proxy between a client and a server on the loopback, that counts bytes and cuts connections.

    proxy = Proxy(server_port)            # listens when it returns; proxy.port
    proxy.cut("down", 1000)               # after 1000 more bytes from the server: both sides are reset
    proxy.up, proxy.down                  # bytes that went through, from and to the client
    proxy.close()

It knows nothing of what it carries. One thread of its own; nothing is waited for by sleeping.
"""
import selectors
import socket
import struct
import threading

ADDRESS = "127.0.0.1"
PIECE = 65536


def reset(end):
    """Close it so that the other side sees a lost connection, not an orderly end."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


class Pair:
    """Two ends of one connection; what was read from one and not yet written to the other."""

    def __init__(self, client, server):
        self.ends = {"up": client, "down": server}  # by the direction of what is read from it
        self.held = {"up": b"", "down": b""}
        self.ended = set()

    def other(self, way):
        return self.ends["down" if way == "up" else "up"]


class Proxy:
    def __init__(self, port, address=ADDRESS):
        self.target = (address, port)
        self.up = self.down = self.connections = self.cuts = 0
        self.orders = {"up": [], "down": []}
        self.lock = threading.Lock()
        self.pairs = set()
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server((ADDRESS, 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.listener.setblocking(False)
        self.waker, waked = socket.socketpair()
        self.waked = waked
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        self.selector.register(waked, selectors.EVENT_READ, "end")
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def cut(self, way, after, times=1):
        """When `after` more bytes have gone this way ("up": from the client), in whichever connections,
        that connection is lost; `times` times, counted anew each time."""
        with self.lock:
            self.orders[way] = [after, after, times]

    def heal(self):
        """No cut is due any more."""
        with self.lock:
            self.orders = {"up": [], "down": []}

    def close(self):
        self.waker.send(b"x")
        self.thread.join()
        self.waker.close()

    # In the thread.

    def run(self):
        while True:
            for key, events in self.selector.select():
                if key.data == "end":
                    self.end()
                    return
                if key.data is None:
                    self.accept()
                elif key.data[0] in self.pairs:
                    self.serve(*key.data, events)

    def end(self):
        for pair in list(self.pairs):
            self.drop(pair)
        for end in (self.listener, self.waked):
            self.selector.unregister(end)
            end.close()
        self.selector.close()

    def accept(self):
        client, _ = self.listener.accept()
        try:
            server = socket.create_connection(self.target)
        except OSError:
            reset(client)
            return
        pair = Pair(client, server)
        for way, end in pair.ends.items():
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.selector.register(end, selectors.EVENT_READ, (pair, way))
        self.pairs.add(pair)
        self.connections += 1

    def drop(self, pair, orderly=()):
        self.pairs.discard(pair)
        for end in pair.ends.values():
            self.want(end, 0, None)
            if end in orderly:
                end.close()
            else:
                reset(end)

    def want(self, end, events, data):
        """Be told of these events at this end, or, where there are none, of nothing."""
        known = end in self.selector.get_map()
        if events and known:
            self.selector.modify(end, events, data)
        elif events:
            self.selector.register(end, events, data)
        elif known:
            self.selector.unregister(end)

    def watch(self, pair):
        """What each end is waited for: room for what is held for it, more to read where nothing is."""
        for way, end in pair.ends.items():
            events = 0
            if pair.held["down" if way == "up" else "up"]:
                events |= selectors.EVENT_WRITE
            if not pair.held[way] and way not in pair.ended:
                events |= selectors.EVENT_READ
            self.want(end, events, (pair, way))

    def serve(self, pair, way, events):
        try:
            if events & selectors.EVENT_READ:
                self.read(pair, way)
            if pair in self.pairs and events & selectors.EVENT_WRITE:
                self.write(pair, "down" if way == "up" else "up")
        except OSError:
            self.drop(pair)
            return
        if pair not in self.pairs:
            return
        if pair.ended == {"up", "down"} and not pair.held["up"] and not pair.held["down"]:
            self.drop(pair, pair.ends.values())
        else:
            self.watch(pair)

    def read(self, pair, way):
        try:
            data = pair.ends[way].recv(PIECE)
        except BlockingIOError:
            return
        if not data:
            pair.ended.add(way)
            self.write(pair, way)
            return
        with self.lock:
            order = self.orders[way]
            lost = bool(order) and len(data) >= order[0]
            if lost:
                data = data[:order[0]]
                order[0] = order[1]
                order[2] -= 1
                self.cuts += 1
                if order[2] == 0:
                    self.orders[way] = []
            elif order:
                order[0] -= len(data)
            if way == "up":
                self.up += len(data)
            else:
                self.down += len(data)
        pair.held[way] += data
        self.write(pair, way)
        if lost:
            # What was before the cut arrives, as far as there is room for it; who sent it is told.
            self.drop(pair, [pair.other(way)])

    def write(self, pair, way):
        """What is held of this direction, to where it goes."""
        try:
            while pair.held[way]:
                sent = pair.other(way).send(pair.held[way])
                pair.held[way] = pair.held[way][sent:]
        except BlockingIOError:
            return
        if not pair.held[way] and way in pair.ended:
            pair.other(way).shutdown(socket.SHUT_WR)
