"""How the files of others hold the tables of machines."""

from models.layouts import Layout

LAYOUTS = {
    "azure-pdm": Layout(
        "The tables of Azure's predictive maintenance example: machineID, datetime, volt, ..., errorID, comp, failure, "
        "age; they are read without a layout, too",
        {
            "machine_id": ("machineID",),
            "time": ("datetime",),
            "error": ("errorID",),
            "component": ("comp", "failure"),
            "age_years": ("age",),
        },
    )
}
