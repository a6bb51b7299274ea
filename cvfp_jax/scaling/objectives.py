"""What a fit minimises, by name; imports nothing, so that the command line can use it."""

LOG, LINEAR, HUBER = "log", "linear", "huber"
OBJECTIVES = {
    LOG: "least squares of ln y",
    LINEAR: "least squares of y",
    HUBER: "Huber's loss of ln y",
}
