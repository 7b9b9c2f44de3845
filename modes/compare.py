"""`--mode=compare`: shows runs side by side, in a picture and in a table of their evaluations."""
import os

from engine import disk, strict_json
from engine.arguments import Mode
from errors import InputError
from inference import RUNS, load_run, open_split, refuse_two_folders, split_of
from pictures import draw, draw_backs, on_paper, sheet, straight, to_image
from scoring import COLUMNS, MORE, PSNR, SSIM, SURFACES, same_protocol

SHOWN = COLUMNS + MORE



def run(options, device):
    """Write compare.png, inputs/*.png and table.{md,csv,tex} of the runs in --runs."""
    if not options.runs:
        raise InputError("--mode=compare needs --runs, the folders of two or more runs")
    refuse_two_folders(options)
    folder, folders = options.sample_dir, options.runs
    names = _names(folders)
    split = options.split or split_of(options, load_run(folders[0], options.eval_flag, settings=vars(options)).dataset)
    evaluations = [_evaluation(f, split, options.eval_flag) for f in folders]
    same_protocol(folders, [e["protocol"] for e in evaluations])
    models = [load_run(f, options.eval_flag, device, vars(options)) for f in folders]
    _same_images(folders, models)
    _same_steps(folders, evaluations, models)
    disk.make_folder(folder, "--sample_dir")
    data = open_split(models[0], options)
    _picture(folder, data, models, names)
    _red_backs(folder, data, models, names)
    groups = [SHOWN] + [more for more in (SURFACES, PSNR + SSIM) if any(more[0][0] in e for e in evaluations)]
    tables = [(shown, [(name, class_id, [e.get(key, {}).get(class_id) for key, _ in shown])
                       for class_id in evaluations[0]["iou"] for name, e in zip(names, evaluations)])
              for shown in [*groups, sum(groups, ())]]
    *tables, whole = tables
    table = _markdown(tables, evaluations[0], data)
    for ending, text in (("md", table), ("csv", _csv(*whole)), ("tex", _latex(tables, data))):
        with disk.written_whole(os.path.join(folder, f"table.{ending}")) as out:
            out.write(text)
    print(table)
    return 0


def _names(folders):
    names = [os.path.basename(os.path.normpath(f)) for f in folders]
    return names if len(set(names)) == len(names) else list(folders)


def _evaluation(folder, split, flag):
    path = os.path.join(folder, f"evaluation_{split}_{flag}.json")
    try:
        with open(path) as file:
            evaluation = strict_json.loads(file.read())
        classes = set(evaluation["protocol"]["objects"])
        if not classes or any(set(evaluation[key]) != classes for key, _ in COLUMNS):
            raise ValueError("figures of some classes are missing")
        return evaluation
    except FileNotFoundError:
        raise InputError(f"there is no {path}; make it with --mode=evaluation --ckpt_dir={folder} "
                         f"--split={split} --eval_flag={flag}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as an evaluation: {type(error).__name__}: {error}") from None


def _same_images(folders, models):
    for folder, model in zip(folders, models):
        for key in ("dataset", "img_size"):
            if model.options[key] != models[0].options[key]:
                raise InputError(f"{folders[0]} and {folder} take different images: --{key}="
                                 f"{models[0].options[key]} and {model.options[key]}")


def _same_steps(folders, evaluations, models):
    """Refuse evaluations of other checkpoints than those in the picture."""
    for folder, e, model in zip(folders, evaluations, models):
        measured = e["protocol"].get("step")
        if measured != model.step:
            raise InputError(f"the figures of {folder} are of step {measured}, its {e['protocol'].get('checkpoint')} "
                             f"checkpoint is of step {model.step}: run --mode=evaluation --ckpt_dir={folder} again")


def _picture(folder, data, models, names, count=6, size=112, turns=(0.25, 0.5)):
    """Write the picture: one row per object with the input, each run's mesh from the input's view and from new views,
    and the object's voxels from the same views."""
    objects, chosen = data.spread(count, 5, 3)
    batch = data.gather(chosen)
    columns, titles = [[on_paper(image, size) for image in batch.images]], ["input"]
    looks = [data.turned(batch.cameras, t) for t in (0.0, *turns)]
    angles = ["its view"] + [f"{round(360 * t)}°" for t in turns]
    for model, name in zip(models, names):
        prediction = model.predict(batch.images)
        for look, angle in zip(looks, angles):
            columns.append(list(draw(data, prediction.vertices, prediction.faces, look.to(model.device), size,
                                     textures=prediction.textures).cpu()))
            titles.append(f"{name[-12:]}, {angle}")
    truths = data.voxel_meshes(objects)
    for look, angle in zip(looks, angles):
        columns.append([draw(data, *truth, look[i:i + 1], size, (0.6, 0.65, 0.7))[0]
                        for i, truth in enumerate(truths)])
        titles.append(f"truth, {angle}")
    sheet(list(zip(*columns)), titles).save(os.path.join(folder, "compare.png"))
    inputs = os.path.join(folder, "inputs")
    os.makedirs(inputs, exist_ok=True)
    for o, image in zip(objects, batch.images):
        to_image(straight(image)).save(os.path.join(inputs, f"object_{o:03d}.png"))


def _red_backs(folder, data, models, names, count=6, size=112):
    """backs.png: a row for each of some objects, the input and for each run its mesh from four directions around and
    from below, with the faces that show their inside in red."""
    _, chosen = data.spread(count, 5, 3)
    batch = data.gather(chosen)
    columns, titles = [[on_paper(image, size) for image in batch.images]], ["input"]
    for model, name in zip(models, names):
        prediction = model.predict(batch.images)
        outward = prediction.outward
        below = prediction.vertices * prediction.vertices.new_tensor([1, -1, 1])
        for turn in (0, 0.25, 0.5, 0.75, None):
            shapes = below if turn is None else prediction.vertices  # upside down, which turns all faces over
            look = data.turned(batch.cameras, turn or 0.0).to(model.device)
            columns.append(list(draw_backs(data, shapes, prediction.faces, look, size,
                                           -outward if turn is None else outward).cpu()))
            titles.append(f"{name[-12:]}, " + ("below" if turn is None else f"{round(360 * turn)}°"))
    sheet(list(zip(*columns)), titles).save(os.path.join(folder, "backs.png"))


def _figure(value):
    return "-" if value is None else f"{value:.3f}"


def _markdown(tables, evaluation, data):
    protocol = evaluation["protocol"]
    lines = [f"{protocol['dataset']} {protocol['split']}, every view of every object, voxels 32^3 by the "
             f"published rule, {protocol['checkpoint']} checkpoint."]
    for shown, rows in tables:
        lines += ["", "| class | run | " + " | ".join(title for _, title in shown) + " |",
                  "| --- | --- |" + " ---: |" * len(shown)]
        lines += [f"| {data.class_name(c)} | {name} | " + " | ".join(map(_figure, values)) + " |"
                  for name, c, values in rows]
    lines += ["", *(f"-: {why}." for why in protocol["undefined"])] if protocol.get("undefined") else []
    return "\n".join(lines) + "\n"


def _csv(shown, rows):
    lines = ["class,run," + ",".join(key for key, _ in shown)]
    quoted = [(name if not set(name) & set(',"\n') else '"' + name.replace('"', '""') + '"', c, values)
              for name, c, values in rows]
    lines += [f"{c},{name}," + ",".join("" if v is None else f"{v:.6f}" for v in values) for name, c, values in quoted]
    return "\n".join(lines) + "\n"


def _latex(tables, data):
    def plain(text):
        return "".join("\\" + ch if ch in "_&%#$" else ch for ch in text)
    lines = []
    for shown, rows in tables:
        lines += [r"\begin{tabular}{ll" + "r" * len(shown) + "}", r"\hline",
                  "class & run & " + " & ".join(plain(title) for _, title in shown) + r" \\", r"\hline"]
        lines += [f"{plain(data.class_name(c))} & {plain(name)} & "
                  + " & ".join(map(_figure, values)) + r" \\" for name, c, values in rows]
        lines += [r"\hline", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


MODE = Mode(run, "shows RUNS side by side: a picture and a table", options=RUNS,
            results="results/compare")
