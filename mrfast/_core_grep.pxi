cdef void *copied(bytes data) except NULL:
    """A copy of the bytes that free() ends."""
    cdef void *p = malloc(<size_t>PyBytes_GET_SIZE(data) + 1)
    if not p:
        raise MemoryError
    return memcpy(p, PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))


cdef int take_automaton(mr_grep *g, source) except -1:
    """Takes over the tables of an Automaton (mrfast/tasks/automaton.py)."""
    cdef bytes class_of = source.class_of, next = bytes(source.next), ends = source.ends
    cdef bytes text = source.literal, fold = source.fold
    if len(class_of) != 256 or len(next) != 2 * len(ends) * source.classes or len(fold) != len(text):
        raise ValueError("tables of an automaton that do not fit together")
    memcpy(g.class_of, PyBytes_AS_STRING(class_of), 256)
    g.classes = source.classes
    g.states = <size_t>len(ends)
    g.next = <uint16_t *>copied(next)
    g.ends = <uint8_t *>copied(ends)
    g.needle.text = <uint8_t *>copied(text)
    g.needle.fold = <uint8_t *>copied(fold)
    g.needle.len = <size_t>len(text)
    g.needle.first, g.needle.second = source.rarest
    g.leads = source.leads
    g.settles = source.settles and len(text) > 0
    g.counting = source.by == "count"
    g.find = mr_finder(LEVEL)
    if not mr_grep_fits(g):
        raise ValueError("tables of an automaton that lead out of themselves")
    return 0
