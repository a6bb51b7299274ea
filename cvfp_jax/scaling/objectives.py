"""What a fit makes least, by name; light enough for the command line to import."""

LOG, LINEAR, HUBER = "log", "linear", "huber"
OBJECTIVES = {
    LOG: "least squares of ln y",
    LINEAR: "least squares of y",
    HUBER: "Huber's loss of ln y",
}
