import java.io.File
import java.nio.ByteBuffer
import javax.imageio.ImageIO
import kotlin.math.abs
import org.mnv3.demo.core.BundleContract
import org.mnv3.demo.core.Golden
import org.mnv3.demo.core.Pixels
import org.mnv3.demo.core.Postprocessor
import org.mnv3.demo.core.Preprocessor

/** Runs the sample app's own preprocessing and postprocessing over the goldens of bundles; prints a line for each difference. */
fun main(folders: Array<String>) {
    for (path in folders) {
        val folder = File(path)
        val contract = BundleContract.parse(File(folder, "preprocessing.json").readText())
        val labels = BundleContract.labels(File(folder, "labels.txt").readText(), contract)
        val preprocessor = Preprocessor(contract)
        val postprocessor = Postprocessor(contract, labels)
        val goldens = Golden.parse(File(folder, "goldens.json").readText())
        var different = 0
        for (golden in goldens) {
            val image = ImageIO.read(File(folder, golden.picture))
            val argb = image.getRGB(0, 0, image.width, image.height, null, 0, image.width)
            val tensor = preprocessor.tensor(Pixels(argb, image.width, image.height))
            val bytes = ByteArray(tensor.remaining()).also { tensor.get(it) }
            val expected = File(folder, golden.input).readBytes()
            if (!bytes.contentEquals(expected)) {
                val wrong = bytes.indices.count { it >= expected.size || bytes[it] != expected[it] }
                println("$path ${golden.input}: $wrong of ${expected.size} bytes differ")
                different++
            }
            val best = postprocessor.top(ByteBuffer.wrap(File(folder, golden.output).readBytes()), 3).first()
            if (best.index != golden.index || best.label != golden.label || abs(best.probability - golden.score) > 1e-5) {
                println("$path ${golden.output}: $best instead of ${golden.label} ${golden.score}")
                different++
            }
        }
        println("$path: ${goldens.size} goldens, $different different")
    }
}
