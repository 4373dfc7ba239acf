"""A function applied to many items by several workers; whatever goes wrong ends the call."""

import itertools
import multiprocessing
import pickle
import queue
import random
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial

import numpy as np


class WorkerError(RuntimeError):
    """A worker process that died, or whose error could not be brought here."""


def parallel_apply_generator(
    func, iterable, workers, max_queue_size, dummy=False, random_seeds=True
):
    """Apply a function to items in parallel; results come as they are ready.

    Args:
        func: a function of one item. Where processes are forked (Linux) any function,
            elsewhere one that can be pickled.
        iterable: the items; no more are taken than are worked on or queued, so it may be
            endless.
        workers: how many.
        max_queue_size: how many items wait for a worker.
        dummy: threads instead of processes.
        random_seeds: True gives each process fresh random numbers (numpy's and Python's), a
            list gives the processes these seeds, None or False leaves them as forked: all
            alike. Threads share one generator, which is left alone.

    Yields:
        `(index, result)`, in no particular order.

    Raises:
        Whatever `func` or `iterable` raises, at once: other workers are ended.
        WorkerError: a process died.
        ValueError: numbers that make no sense.
        TypeError: a function that cannot be sent to processes.
    """
    if workers < 1 or max_queue_size < 0:
        raise ValueError(
            f"parallel_apply: workers: at least 1, max_queue_size: at least 0, "
            f"got {workers} and {max_queue_size}"
        )
    if dummy:
        return _apply(ThreadPoolExecutor(workers), func, iterable, workers + max_queue_size)
    pool = process_pool(func, workers, random_seeds)
    return _apply(pool, work, iterable, workers + max_queue_size)


def parallel_apply(
    func,
    iterable,
    workers,
    max_queue_size,
    callback=None,
    dummy=False,
    random_seeds=True,
    unordered=True,
):
    """Apply a function to items in parallel.

    Args:
        func, iterable, workers, max_queue_size, dummy, random_seeds: see
            `parallel_apply_generator`.
        callback: called with each result, here; nothing is kept then.
        unordered: results in any order; False for that of the items.

    Returns:
        The list of results; None with a callback.

    Raises:
        See `parallel_apply_generator`.
    """
    numbered = parallel_apply_generator(
        func, iterable, workers, max_queue_size, dummy, random_seeds
    )
    results = (result for _, result in (numbered if unordered else _in_order(numbered)))
    if callback is None:
        return list(results)
    for result in results:
        callback(result)


def _in_order(numbered):
    early = {}
    for position in itertools.count():
        while position not in early:
            item = next(numbered, None)
            if item is None:
                return
            early[item[0]] = item
        yield early.pop(position)


def _apply(pool, func, iterable, limit):
    """(index, result) of a pool that is ended with this generator, whatever ends it."""
    done, pending = queue.SimpleQueue(), 0
    try:
        for index, item in enumerate(iterable):
            future = _submit(pool, func, item)
            future.add_done_callback(partial(_put, done, index))
            pending += 1
            while pending == limit or not done.empty():
                index, future = done.get()
                pending -= 1
                yield index, result_of(future)
        while pending:
            index, future = done.get()
            pending -= 1
            yield index, result_of(future)
        pool.shutdown()
    finally:
        end_pool(pool)


def _put(done, index, future):
    done.put((index, future))


def _submit(pool, func, item):
    with _worker_errors():
        return pool.submit(func, item)


def result_of(future):
    """A future's result; what a worker did to itself becomes a `WorkerError`."""
    with _worker_errors():
        return future.result()


@contextmanager
def _worker_errors():
    try:
        yield
    except BrokenProcessPool as error:
        raise WorkerError(
            "a worker process died (killed, out of memory, or ended by the function)"
        ) from error
    except SystemExit as error:
        raise WorkerError(f"the function called exit({error.code}) in a worker") from error


def process_pool(func, workers, random_seeds=True):
    """A pool of processes in which `work` applies this function."""
    forks = sys.platform == "linux"
    if not forks:
        _check_picklable(func)
    context = multiprocessing.get_context("fork" if forks else None)
    # What an initializer is given is inherited by a fork, not pickled: any function will do.
    arguments = (func, random_seeds, context.Value("i", 0))
    return ProcessPoolExecutor(workers, context, _start_worker, arguments)


def end_pool(pool):
    """End a pool now; processes in the middle of an item too."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()


def _check_picklable(func):
    try:
        pickle.dumps(func)
    except Exception as error:
        raise TypeError(
            f"parallel_apply: {func!r} cannot be sent to worker processes ({error}); define it at "
            "the top level of a module, or pass dummy=True for threads"
        ) from error


_function = None  # of a worker process


def _start_worker(func, random_seeds, counter):
    global _function
    _function = func
    with counter.get_lock():
        number, counter.value = counter.value, counter.value + 1
    if random_seeds is True:
        seed = None
    elif random_seeds:
        seed = random_seeds[number % len(random_seeds)]
    else:
        return
    np.random.seed(seed)
    random.seed(seed)


def work(item):
    """Apply the pool's function, in a worker process."""
    try:
        return _function(item)
    except Exception as error:
        raise _portable(error) from None


def _portable(error):
    """The error, or if pickling loses it one that says the same."""
    try:
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    except Exception:  # an exception may do anything when it is pickled
        pass
    text = "".join(traceback.format_exception(error))
    return WorkerError(f"{type(error).__name__}: {error}\nin a worker:\n{text}")
