"""A GPU for the tests of the Python package: the emulated one (tests/cuda/emulated.h), in whose module a test finds
CUDA's own functions, as a program finds those of the runtime that it uses."""
import ctypes
import os

TO_DEVICE, TO_HOST, BETWEEN = 1, 2, 3


class Device:
    """Device `number`. What it gave is freed by release()."""

    def __init__(self, number=0):
        self.number = number
        self.cuda = ctypes.CDLL(os.environ["VERA_CUDA_MODULE"])
        self.memories, self.streams = [], []

    def call(self, name, *arguments):
        """On this device, whichever is the thread's."""
        before = ctypes.c_int()
        self.cuda.cudaGetDevice(ctypes.byref(before))
        self.cuda.cudaSetDevice(self.number)
        code = getattr(self.cuda, name)(*arguments)
        self.cuda.cudaSetDevice(before.value)
        if code != 0:
            raise AssertionError(f"{name}: {code}")

    def memory(self, size):
        """The address of so many bytes."""
        address = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        self.memories.append(address)
        return address.value

    def put(self, data):
        """The address of a copy of these bytes."""
        address = self.memory(len(data))
        self.write(address, data)
        return address

    def write(self, address, data):
        """And wait: a copy from memory that is not pinned may still be on its way, and a stream that waits for no other
        would not wait for it."""
        self.call("cudaMemcpy", ctypes.c_void_p(address), bytes(data), ctypes.c_size_t(len(data)), TO_DEVICE)
        self.call("cudaDeviceSynchronize")

    def read(self, address, size):
        """Once all is done that was queued."""
        data = ctypes.create_string_buffer(size)
        self.call("cudaDeviceSynchronize")
        self.call("cudaMemcpy", data, ctypes.c_void_p(address), ctypes.c_size_t(size), TO_HOST)
        return data.raw

    def stream(self):
        """The handle of one that waits for no other, like torch's."""
        stream = ctypes.c_void_p()
        self.call("cudaStreamCreateWithFlags", ctypes.byref(stream), 1)
        self.streams.append(stream)
        return stream.value

    def queue_copy(self, to, data, size, stream):
        self.call("cudaMemcpyAsync", ctypes.c_void_p(to), ctypes.c_void_p(data), ctypes.c_size_t(size), BETWEEN,
                  ctypes.c_void_p(stream))

    def fail(self, call, nth, error):
        """Have the n-th call from now on fail, once."""
        self.cuda.emulated_fail(call.encode(), nth, error)

    def release(self):
        self.call("cudaDeviceSynchronize")
        for address in self.memories:
            self.call("cudaFree", address)
        for stream in self.streams:
            self.call("cudaStreamDestroy", stream)


class Array:
    """What CuPy and Numba make: an object that tells by `__cuda_array_interface__` where it lies. `strides` in bytes;
    `device`: what it tells beside it, as CuPy does."""

    def __init__(self, address, typestr, shape, device=None, **more):
        self.__cuda_array_interface__ = {"data": (address, False), "typestr": typestr, "shape": tuple(shape),
                                         "version": 3, **more}
        if device is not None:
            self.device = type("Device", (), {"id": device})()
